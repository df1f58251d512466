//! More units, fewer, none, some again.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};

use crate::drill::{Drill, Scenario, Struck};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Remove,
    Stop,
    Start,
}

pub(super) const VERBS: [Verb; 4] = [Verb::Add, Verb::Remove, Verb::Stop, Verb::Start];

pub(super) struct Scale(pub(super) Verb);

impl Scale {
    /// The units before and after.
    fn units(&self) -> (usize, usize) {
        match self.0 {
            Verb::Add => (1, 2),
            Verb::Remove => (2, 1),
            Verb::Stop => (1, 0),
            Verb::Start => (0, 1),
        }
    }
}

fn request(drill: &Drill, number: usize, units: usize, wanted: usize) -> RequestBuilder {
    let app = format!("/1.0/apps/app{number}");
    let form = [("units", "1"), ("process", "web")];
    let by = |method, path: &str| drill.house.by(method, &format!("{app}{path}"));
    match (units, wanted) {
        (1, 2) => by(Method::PUT, "/units").form(&form),
        (2, 1) => by(Method::DELETE, "/units").query(&form),
        (_, 0) => by(Method::POST, "/stop"),
        _ => by(Method::POST, "/start"),
    }
}

async fn scale(drill: &Drill, number: usize, wanted: usize) {
    let units = drill.apps[number].units;
    if units != wanted {
        let answer = request(drill, number, units, wanted).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(
            status.is_success() && !text.contains("\"Error\""),
            "{status} {text}"
        );
    }
}

impl Scenario for Scale {
    const KIND: &'static str = "app.scale";

    fn goes_on(&self, step: &str, _late: bool) -> bool {
        step == "settle"
    }

    async fn prepare(&self, drill: &Drill, number: usize) {
        scale(drill, number, self.units().0).await;
    }

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let (before, after) = self.units();
        request(drill, number, before, after)
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let (before, after) = self.units();
        // Only more units are taken back: what else was wished comes true, if later.
        drill.apps[struck.number].units = match struck.done || self.0 != Verb::Add {
            true => after,
            false => before,
        };
        match struck.done {
            true => drill.says(struck.number).await.into_iter().collect(),
            false => Vec::new(),
        }
    }

    async fn clean(&mut self, drill: &mut Drill) {
        drill.assert_tidy().await;
        join_all((0..drill.apps.len()).map(|number| scale(drill, number, 1))).await;
        drill.apps.iter_mut().for_each(|app| app.units = 1);
    }
}
