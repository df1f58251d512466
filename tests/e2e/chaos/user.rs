//! A user at work: an operation, its response, and the outcome.

use std::time::Duration;

use proptest::test_runner::TestRng;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::model::{ModelOperation, ModelState};
use crate::apps::AppSource;
use crate::services::INSTANCES;
use crate::test_instance::{multipart, seconds, wait_for};

/// The pause before a user without a result tries again. Without it, the report would count little else.
const PAUSE: Duration = Duration::from_millis(300);

/// Counts of the responses, and of the outcomes of operations without one.
#[derive(Debug, Default)]
pub(super) struct OutcomeCounts {
    pub(super) done: usize,
    failed: usize,
    unavailable: usize,
    lost_but_done: usize,
    lost_and_undone: usize,
    never_begun: usize,
}

impl OutcomeCounts {
    pub(super) fn all(&self) -> usize {
        self.done
            + self.failed
            + self.unavailable
            + self.lost_but_done
            + self.lost_and_undone
            + self.never_begun
    }
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug)]
enum OperationOutcome {
    Done,
    /// The event failed, and the response reported it.
    Failed,
    /// 503 with `Retry-After`: nothing was begun.
    Unavailable,
    /// The response does not tell.
    Unknown,
    /// A response without a reason.
    Unexpected,
}

pub(super) struct ChaosUser {
    who: u64,
    email: String,
    pub(super) team: String,
    token: String,
    api: String,
    http: reqwest::Client,
    rng: TestRng,
    pub(super) world: ModelState,
    pub(super) tally: OutcomeCounts,
    pub(super) wrong: Vec<String>,
    /// The id of the last known event.
    seen: String,
}

impl ChaosUser {
    /// Registers, logs in and creates a team.
    pub(super) async fn sign_up(api: &str, who: u64, rng: TestRng) -> Self {
        let mut user = Self {
            who,
            email: format!("user{who}@example.com"),
            team: format!("team{who}"),
            token: String::new(),
            api: api.to_owned(),
            http: reqwest::Client::builder().timeout(seconds(150)).build().unwrap(),
            rng,
            world: ModelState::default(),
            tally: OutcomeCounts::default(),
            wrong: Vec::new(),
            seen: String::new(),
        };
        let form = [("email", user.email.as_str()), ("password", "chaos-chaos")];
        let sign_up = user.request(Method::POST, "/1.0/users").form(&form);
        assert_eq!(sign_up.send().await.unwrap().status(), 201);
        let path = format!("/1.0/users/{}/tokens", user.email);
        let login = user.request(Method::POST, &path);
        let answer = login
            .json(&json!({ "password": "chaos-chaos" }))
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["token"].as_str().unwrap().clone_into(&mut user.token);
        let team = user
            .request(Method::POST, "/1.0/teams")
            .json(&json!({ "name": user.team }));
        assert_eq!(team.send().await.unwrap().status(), 201);
        user.seen = user.last_event().await["UniqueID"].as_str().unwrap().to_owned();
        user
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.api))
            .bearer_auth(&self.token)
    }

    /// Reads JSON, retrying as often as needed; null if there is nothing (204, 404).
    pub(super) async fn read(&self, path: &str) -> Value {
        wait_for(&format!("a response to {path}"), seconds(90), async || {
            let answer = self.request(Method::GET, path).send().await.ok()?;
            match answer.status().as_u16() {
                200 => answer.json().await.ok(),
                204 | 404 => Some(Value::Null),
                _ => None,
            }
        })
        .await
    }

    async fn last_event(&self) -> Value {
        let path = format!("/1.1/events?ownername={}&limit=1", self.email);
        self.read(&path).await[0].clone()
    }

    /// Runs one operation after the other until it is stopped.
    pub(super) async fn run_operations(mut self, stop: CancellationToken) -> Self {
        let mut number = 0;
        while !stop.is_cancelled() && self.wrong.is_empty() {
            number += 1;
            let operation = self.world.random_operation(&mut self.rng, self.who, number);
            self.perform(&operation).await;
        }
        self
    }

    async fn perform(&mut self, operation: &ModelOperation) {
        let (answer, text) = self.send(operation).await;
        let event = self.last_event_outcome().await;
        println!("{} {}: {operation:?}: {answer:?}", super::clock(), self.email);
        match (
            answer,
            event.as_ref().map(|event| event["Error"].as_str().unwrap()),
        ) {
            (OperationOutcome::Done, Some("")) => {
                self.tally.done += 1;
                self.world = self.world.after(operation);
            }
            (OperationOutcome::Failed, Some(error)) if !error.is_empty() => {
                self.tally.failed += 1;
                self.retry_removal(operation).await;
            }
            (OperationOutcome::Unavailable, None) => {
                self.tally.unavailable += 1;
                tokio::time::sleep(PAUSE).await;
            }
            (OperationOutcome::Unknown, None) => {
                self.tally.never_begun += 1;
                tokio::time::sleep(PAUSE).await;
            }
            (OperationOutcome::Unknown, Some("")) => {
                self.tally.lost_but_done += 1;
                self.world = self.world.after(operation);
            }
            (OperationOutcome::Unknown, Some(_)) => {
                self.tally.lost_and_undone += 1;
                self.retry_removal(operation).await;
            }
            (_, error) => self.wrong.push(format!(
                "{operation:?} was answered {answer:?} ({text}), its event ended {error:?}"
            )),
        }
    }

    /// Repeats a removal that the service has not received or not confirmed, until it is confirmed.
    async fn retry_removal(&mut self, operation: &ModelOperation) {
        let ModelOperation::Deprovision { instance } = operation else {
            return;
        };
        wait_for(&format!("{instance} is gone"), seconds(90), async || {
            let gone = self.read(&format!("{INSTANCES}/{instance}")).await.is_null();
            gone.then_some(())
        })
        .await;
        self.world = self.world.after(operation);
    }

    /// Returns the event of the last operation, once it has ended; none if there is none.
    async fn last_event_outcome(&mut self) -> Option<Value> {
        let event = wait_for("the end of an event", seconds(150), async || {
            let event = self.last_event().await;
            (event["Running"] == false).then_some(event)
        })
        .await;
        let id = event["UniqueID"].as_str().unwrap();
        if id == self.seen {
            return None;
        }
        id.clone_into(&mut self.seen);
        Some(event)
    }

    async fn send(&self, operation: &ModelOperation) -> (OperationOutcome, String) {
        let request = match operation {
            ModelOperation::Create { app } => self
                .request(Method::POST, "/1.0/apps")
                .json(&json!({ "name": app, "platform": "procfile", "teamOwner": self.team })),
            ModelOperation::Deploy { app, text } => {
                let (kind, body) = multipart("file", &AppSource::web(text).pack());
                self.request(Method::POST, &format!("/1.0/apps/{app}/deploy"))
                    .header("content-type", kind)
                    .body(body)
            }
            ModelOperation::Set { app, name, value } => self
                .request(Method::POST, &format!("/1.0/apps/{app}/env"))
                .form(&[("Envs.0.Name", name), ("Envs.0.Value", value)]),
            ModelOperation::Unset { app, name } => self
                .request(Method::DELETE, &format!("/1.0/apps/{app}/env"))
                .query(&[("env", name)]),
            ModelOperation::More { app } => self
                .request(Method::PUT, &format!("/1.0/apps/{app}/units"))
                .form(&[("units", "1"), ("process", "web")]),
            ModelOperation::Less { app } => self
                .request(Method::DELETE, &format!("/1.0/apps/{app}/units"))
                .query(&[("units", "1"), ("process", "web")]),
            ModelOperation::Restart { app } => {
                self.request(Method::POST, &format!("/1.0/apps/{app}/restart"))
            }
            ModelOperation::Remove { app } => self.request(Method::DELETE, &format!("/1.0/apps/{app}")),
            ModelOperation::Provision { instance } => self
                .request(Method::POST, INSTANCES)
                .form(&[("name", instance), ("owner", &self.team)]),
            ModelOperation::Bind { instance, app } => {
                self.request(Method::PUT, &format!("{INSTANCES}/{instance}/{app}"))
            }
            ModelOperation::Unbind { instance, app } => {
                self.request(Method::DELETE, &format!("{INSTANCES}/{instance}/{app}"))
            }
            ModelOperation::Deprovision { instance } => {
                self.request(Method::DELETE, &format!("{INSTANCES}/{instance}"))
            }
        };
        match request.send().await {
            Ok(answer) => {
                let (status, later) = (
                    answer.status().as_u16(),
                    answer.headers().contains_key("retry-after"),
                );
                match answer.text().await {
                    Ok(text) => (
                        classify_response(operation, status, later, &text),
                        format!("{status}: {text}"),
                    ),
                    Err(error) => (OperationOutcome::Unknown, format!("{status}, then {error}")),
                }
            }
            Err(error) => (OperationOutcome::Unknown, error.to_string()),
        }
    }

    pub(super) fn report(&self) -> String {
        format!("{}: {:?} {:?}", self.email, self.tally, self.world)
    }
}

/// Returns the outcome that a response tells.
fn classify_response(operation: &ModelOperation, status: u16, later: bool, text: &str) -> OperationOutcome {
    match status {
        200 | 201 => match operation {
            ModelOperation::Deploy { .. } if !text.ends_with("\nOK\n") => OperationOutcome::Failed,
            _ if text.contains("\"Error\"") => OperationOutcome::Failed,
            _ => OperationOutcome::Done,
        },
        503 if text.contains("continues in the background") => OperationOutcome::Unknown,
        503 if later => OperationOutcome::Unavailable,
        // An error of nginx.
        502 | 504 if text.contains("nginx") => OperationOutcome::Unknown,
        // The service has failed.
        500 | 502 | 504 if operation.calls_service() => OperationOutcome::Failed,
        _ => OperationOutcome::Unexpected,
    }
}
