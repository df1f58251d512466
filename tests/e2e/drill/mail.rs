//! Letters, into the folder of mails.

use std::fs;

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::drill::{Drill, Scenario, Struck};
use crate::house::names;

pub(super) struct Send;

fn reader(drill: &Drill) -> String {
    format!("reader{}@example.com", drill.round)
}

impl Scenario for Send {
    const KIND: &'static str = "mail.send";

    fn at_once(&self) -> usize {
        // It has no event that tells whose it is.
        1
    }

    async fn prepare(&self, drill: &Drill, _number: usize) {
        let account = json!({ "email": reader(drill), "password": "a-good-password" });
        let request = drill.house.by(Method::POST, "/1.0/users").json(&account);
        assert_eq!(request.send().await.unwrap().status(), 201);
    }

    fn launch(&self, drill: &Drill, _number: usize) -> RequestBuilder {
        let path = format!("/1.0/users/{}/password", reader(drill));
        drill.house.by(Method::POST, &path)
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let folder = drill.house.data.join("mail");
        let letters = names(&folder)
            .iter()
            .filter(|name| {
                let text = fs::read_to_string(folder.join(name)).unwrap();
                text.contains(&format!("To: {}", reader(drill)))
            })
            .count();
        // What was sent cannot be called back.
        let right = usize::from(struck.point.what != "fail");
        let wrong = (letters != right).then(|| format!("{letters} letters instead of {right}"));
        wrong.into_iter().collect()
    }
}
