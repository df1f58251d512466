//! Somebody at work: a wish, its answer, what that means.

use std::time::Duration;

use proptest::test_runner::TestRng;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::world::{Wish, World};
use crate::apps::Source;
use crate::house::{multipart, seconds, until};
use crate::services::INSTANCES;

/// Before somebody who got nothing tries again. Without it, the report would count little else.
const PAUSE: Duration = Duration::from_millis(300);

/// What the answers were, and what became of the wishes without one.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) done: usize,
    failed: usize,
    unavailable: usize,
    lost_but_done: usize,
    lost_and_undone: usize,
    never_begun: usize,
}

impl Tally {
    pub(super) fn all(&self) -> usize {
        self.done
            + self.failed
            + self.unavailable
            + self.lost_but_done
            + self.lost_and_undone
            + self.never_begun
    }
}

/// What came back.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Done,
    /// The event failed, and the answer said so.
    Failed,
    /// 503 with `Retry-After`: nothing was begun.
    Later,
    /// Nobody knows from the answer.
    None,
    /// An answer that there is no reason for.
    Wrong,
}

pub(super) struct User {
    who: u64,
    email: String,
    pub(super) team: String,
    token: String,
    api: String,
    http: reqwest::Client,
    dice: TestRng,
    pub(super) world: World,
    pub(super) tally: Tally,
    pub(super) wrong: Vec<String>,
    /// The last event that is known.
    seen: String,
}

impl User {
    /// Signs up, logs in, makes a team.
    pub(super) async fn arrive(api: &str, who: u64, dice: TestRng) -> Self {
        let mut user = Self {
            who,
            email: format!("user{who}@example.com"),
            team: format!("team{who}"),
            token: String::new(),
            api: api.to_owned(),
            http: reqwest::Client::builder().timeout(seconds(150)).build().unwrap(),
            dice,
            world: World::default(),
            tally: Tally::default(),
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

    /// Reads JSON, however often that takes; null where there is nothing (204, 404).
    pub(super) async fn read(&self, path: &str) -> Value {
        until(&format!("an answer to {path}"), seconds(90), async || {
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

    /// One wish after the other until it is told to stop.
    pub(super) async fn work(mut self, stop: CancellationToken) -> Self {
        let mut number = 0;
        while !stop.is_cancelled() && self.wrong.is_empty() {
            number += 1;
            let wish = self.world.wish(&mut self.dice, self.who, number);
            self.wish(&wish).await;
        }
        self
    }

    async fn wish(&mut self, wish: &Wish) {
        let (answer, text) = self.send(wish).await;
        let event = self.how_it_ended().await;
        println!("{} {}: {wish:?}: {answer:?}", super::clock(), self.email);
        match (
            answer,
            event.as_ref().map(|event| event["Error"].as_str().unwrap()),
        ) {
            (Answer::Done, Some("")) => {
                self.tally.done += 1;
                self.world = self.world.with(wish);
            }
            (Answer::Failed, Some(error)) if !error.is_empty() => {
                self.tally.failed += 1;
                self.removed_later(wish).await;
            }
            (Answer::Later, None) => {
                self.tally.unavailable += 1;
                tokio::time::sleep(PAUSE).await;
            }
            (Answer::None, None) => {
                self.tally.never_begun += 1;
                tokio::time::sleep(PAUSE).await;
            }
            (Answer::None, Some("")) => {
                self.tally.lost_but_done += 1;
                self.world = self.world.with(wish);
            }
            (Answer::None, Some(_)) => {
                self.tally.lost_and_undone += 1;
                self.removed_later(wish).await;
            }
            (_, error) => self.wrong.push(format!(
                "{wish:?} was answered {answer:?} ({text}), its event ended {error:?}"
            )),
        }
    }

    /// A removal of which the service has not heard, or has not said so, is repeated until it has.
    async fn removed_later(&mut self, wish: &Wish) {
        let Wish::Deprovision { instance } = wish else {
            return;
        };
        until(&format!("{instance} is gone"), seconds(90), async || {
            let gone = self.read(&format!("{INSTANCES}/{instance}")).await.is_null();
            gone.then_some(())
        })
        .await;
        self.world = self.world.with(wish);
    }

    /// The event of the last wish, once it has ended; none if there is none.
    async fn how_it_ended(&mut self) -> Option<Value> {
        let event = until("the end of an event", seconds(150), async || {
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

    async fn send(&self, wish: &Wish) -> (Answer, String) {
        let request = match wish {
            Wish::Create { app } => self
                .request(Method::POST, "/1.0/apps")
                .json(&json!({ "name": app, "platform": "procfile", "teamOwner": self.team })),
            Wish::Deploy { app, text } => {
                let (kind, body) = multipart("file", &Source::web(text).pack());
                self.request(Method::POST, &format!("/1.0/apps/{app}/deploy"))
                    .header("content-type", kind)
                    .body(body)
            }
            Wish::Set { app, name, value } => self
                .request(Method::POST, &format!("/1.0/apps/{app}/env"))
                .form(&[("Envs.0.Name", name), ("Envs.0.Value", value)]),
            Wish::Unset { app, name } => self
                .request(Method::DELETE, &format!("/1.0/apps/{app}/env"))
                .query(&[("env", name)]),
            Wish::More { app } => self
                .request(Method::PUT, &format!("/1.0/apps/{app}/units"))
                .form(&[("units", "1"), ("process", "web")]),
            Wish::Less { app } => self
                .request(Method::DELETE, &format!("/1.0/apps/{app}/units"))
                .query(&[("units", "1"), ("process", "web")]),
            Wish::Restart { app } => self.request(Method::POST, &format!("/1.0/apps/{app}/restart")),
            Wish::Remove { app } => self.request(Method::DELETE, &format!("/1.0/apps/{app}")),
            Wish::Provision { instance } => self
                .request(Method::POST, INSTANCES)
                .form(&[("name", instance), ("owner", &self.team)]),
            Wish::Bind { instance, app } => {
                self.request(Method::PUT, &format!("{INSTANCES}/{instance}/{app}"))
            }
            Wish::Unbind { instance, app } => {
                self.request(Method::DELETE, &format!("{INSTANCES}/{instance}/{app}"))
            }
            Wish::Deprovision { instance } => {
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
                        understand(wish, status, later, &text),
                        format!("{status}: {text}"),
                    ),
                    Err(error) => (Answer::None, format!("{status}, then {error}")),
                }
            }
            Err(error) => (Answer::None, error.to_string()),
        }
    }

    pub(super) fn report(&self) -> String {
        format!("{}: {:?} {:?}", self.email, self.tally, self.world)
    }
}

/// What an answer says.
fn understand(wish: &Wish, status: u16, later: bool, text: &str) -> Answer {
    match status {
        200 | 201 => match wish {
            Wish::Deploy { .. } if !text.ends_with("\nOK\n") => Answer::Failed,
            _ if text.contains("\"Error\"") => Answer::Failed,
            _ => Answer::Done,
        },
        503 if text.contains("what it began goes on") => Answer::None,
        503 if later => Answer::Later,
        // The words of nginx.
        502 | 504 if text.contains("nginx") => Answer::None,
        // The service did not do its part.
        500 | 502 | 504 if wish.calls_service() => Answer::Failed,
        _ => Answer::Wrong,
    }
}
