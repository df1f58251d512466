//! Deliveries to a webhook, whose receiver is this instance of Tancho.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::failpoints::{FailpointFixture, ReachedPoint, Scenario};

/// A webhook of the team `crew` that is about changes of the team.
pub(super) struct DeliverWebhookScenario;

impl Scenario for DeliverWebhookScenario {
    const KIND: &'static str = "webhook.deliver";

    fn points_per_round(&self) -> usize {
        // No event identifies its subject.
        1
    }

    fn keeps_address(&self) -> bool {
        true
    }

    async fn prepare(&self, fixture: &FailpointFixture, _number: usize) {
        let hook = json!({
            "name": "failpoints", "team_owner": "crew", "method": "GET",
            "url": format!("{}/healthcheck", fixture.tancho.running().api),
            "event_filter": { "kind_names": ["team.update"] },
        });
        let request = fixture
            .tancho
            .request_as_admin(Method::POST, "/1.6/events/webhooks")
            .json(&hook);
        // It stays for all rounds.
        assert!([200, 409].contains(&request.send().await.unwrap().status().as_u16()));
    }

    fn launch(&self, fixture: &FailpointFixture, _number: usize) -> RequestBuilder {
        let change = json!({ "tags": [format!("round{}", fixture.round)] });
        fixture
            .tancho
            .request_as_admin(Method::PUT, "/1.6/teams/crew")
            .json(&change)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let list = fixture
            .tancho
            .read_json("/1.1/events?kindname=team.update&limit=1")
            .await;
        let path = format!("/1.1/events/{}", list[0]["UniqueID"].as_str().unwrap());
        let event = fixture.tancho.read_json(&path).await;
        let deliveries = &event["CustomData"]["Other"]["Webhooks"];
        // What was sent cannot be recalled.
        let right = if reached.point.what == "fail" {
            "failed"
        } else {
            "delivered"
        };
        let wrong = (deliveries[0]["State"] != right || deliveries.as_array().map_or(0, Vec::len) != 1)
            .then(|| format!("{deliveries} instead of one that is {right}"));
        wrong.into_iter().collect()
    }
}
