//! Mails, into the mail folder.

use std::fs;

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::failpoints::{FailpointFixture, ReachedPoint, Scenario};
use crate::test_instance::list_names;

pub(super) struct SendMailScenario;

fn mailbox_address(fixture: &FailpointFixture) -> String {
    format!("reader{}@example.com", fixture.round)
}

impl Scenario for SendMailScenario {
    const KIND: &'static str = "mail.send";

    fn points_per_round(&self) -> usize {
        // No event identifies its subject.
        1
    }

    async fn prepare(&self, fixture: &FailpointFixture, _number: usize) {
        let account = json!({ "email": mailbox_address(fixture), "password": "a-good-password" });
        let request = fixture
            .tancho
            .request_as_admin(Method::POST, "/1.0/users")
            .json(&account);
        assert_eq!(request.send().await.unwrap().status(), 201);
    }

    fn launch(&self, fixture: &FailpointFixture, _number: usize) -> RequestBuilder {
        let path = format!("/1.0/users/{}/password", mailbox_address(fixture));
        fixture.tancho.request_as_admin(Method::POST, &path)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let folder = fixture.tancho.data.join("mail");
        let letters = list_names(&folder)
            .iter()
            .filter(|name| {
                let text = fs::read_to_string(folder.join(name)).unwrap();
                text.contains(&format!("To: {}", mailbox_address(fixture)))
            })
            .count();
        // A sent mail cannot be recalled.
        let right = usize::from(reached.point.what != "fail");
        let wrong = (letters != right).then(|| format!("{letters} mails instead of {right}"));
        wrong.into_iter().collect()
    }
}
