//! The requests of the real client, sent again: the recordings in `tests/recorded/` (requests as they were
//! sent, and the responses that the client got) are replayed against a running server, each request on a raw
//! connection of its own, and the responses decoded by types that are as strict as the client.
//!
//! `table` defines for every recording how it is replayed, or why not; a recording in neither fails the test.
//! Recordings whose responses no correct server gives (`counterexample`) are never replayed.

mod fixture;
mod record;
mod shapes;
mod table;
pub(crate) mod test_service;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use fixture::{RecordedFixture, Sender};
use record::{ClientRecord, Placeholders};
use shapes::AnswerShape;

/// How a recording is replayed.
#[derive(Debug)]
struct ReplayRow {
    name: &'static str,
    who: Sender,
    /// The preparation, see `RecordedFixture::prepare`.
    before: &'static [&'static str],
    /// The shape of each response, in the order of the requests; the last one stands for the rest.
    shapes: &'static [AnswerShape],
    /// A status other than the recorded one, and why it is acceptable.
    instead: Option<(u16, &'static str)>,
}

const fn row(name: &'static str, shapes: &'static [AnswerShape]) -> ReplayRow {
    ReplayRow {
        name,
        who: Sender::Ana,
        before: &[],
        shapes,
        instead: None,
    }
}

impl ReplayRow {
    const fn sent_by(mut self, who: Sender) -> Self {
        self.who = who;
        self
    }

    const fn after(mut self, before: &'static [&'static str]) -> Self {
        self.before = before;
        self
    }

    /// Expects this status of the last response, for a reason.
    const fn answering(mut self, status: u16, why: &'static str) -> Self {
        self.instead = Some((status, why));
        self
    }

    fn shape(&self, at: usize) -> AnswerShape {
        *self
            .shapes
            .get(at)
            .or(self.shapes.last())
            .expect("every row has a shape")
    }

    async fn replay(&self, fixture: &RecordedFixture, record: &ClientRecord) -> Result<(), String> {
        fixture.prepare(self.before).await?;
        let mut filling = Placeholders(fixture.placeholders(self.who).await);
        let last = record.exchanges.len() - 1;
        for (at, exchange) in record.exchanges.iter().enumerate() {
            let request = exchange.request.bytes(&filling);
            let reply = record::send(
                fixture.server(),
                &request,
                self.shape(at) == AnswerShape::Following,
            )
            .await;
            let wanted = match self.instead {
                Some((status, _)) if at == last => status,
                _ => exchange.recorded().status,
            };
            let what = format!("{} {}", exchange.request.method, exchange.request.target);
            if reply.status != wanted {
                return Err(format!("{what}: {} for {wanted}: {}", reply.status, reply.text()));
            }
            self.shape(at)
                .check(&reply)
                .map_err(|wrong| format!("{what}: {wrong}"))?;
            if self.shape(at) == AnswerShape::Token {
                filling.take_token(&reply);
            }
        }
        Ok(())
    }
}

fn records() -> BTreeMap<String, ClientRecord> {
    let mut records = BTreeMap::new();
    for record in record::all() {
        let name = record.name.clone();
        assert!(
            records.insert(name.clone(), record).is_none(),
            "{name} is recorded twice"
        );
    }
    records
}

/// Replays a chapter of the table in its order, on a server of its own.
async fn replay(rows: &[ReplayRow], fixture: RecordedFixture) {
    let records = records();
    let mut wrong = Vec::new();
    for row in rows {
        let record = &records[row.name];
        if let Err(error) = row.replay(&fixture, record).await {
            let argv = record.argv.join(" ");
            wrong.push(format!(
                "{} (tsuru {argv})\n  needs: {}\n  {error}",
                row.name, record.reads
            ));
        }
    }
    assert!(wrong.is_empty(), "{} records:\n{}", wrong.len(), wrong.join("\n"));
    fixture.close().await;
}

#[tokio::test]
async fn user_and_team_requests_match_the_recordings() {
    replay(table::USERS, RecordedFixture::with_users().await).await;
}

#[tokio::test]
async fn app_requests_match_the_recordings() {
    replay(table::APPS, RecordedFixture::with_apps().await).await;
}

#[tokio::test]
async fn running_app_requests_match_the_recordings() {
    replay(table::RUNNING, RecordedFixture::with_running_app().await).await;
}

#[tokio::test]
async fn service_requests_match_the_recordings() {
    replay(table::SERVICES, RecordedFixture::with_service().await).await;
}

#[tokio::test]
async fn operator_requests_match_the_recordings() {
    replay(table::OPERATOR, RecordedFixture::with_apps().await).await;
}

#[tokio::test]
async fn catalog_requests_match_the_recordings() {
    replay(table::CATALOG, RecordedFixture::with_apps().await).await;
}

#[tokio::test]
async fn certificate_requests_match_the_recordings() {
    replay(table::CERTIFICATES, RecordedFixture::with_apps().await).await;
}

#[tokio::test]
async fn autoscale_requests_match_the_recordings() {
    replay(table::AUTOSCALE, RecordedFixture::with_running_app().await).await;
}

#[tokio::test]
async fn volume_requests_match_the_recordings() {
    replay(table::VOLUMES, RecordedFixture::with_apps().await).await;
}

#[tokio::test]
async fn event_block_and_webhook_requests_match_the_recordings() {
    replay(table::EVENTS, RecordedFixture::with_users().await).await;
}

#[tokio::test]
async fn job_requests_match_the_recordings() {
    replay(table::JOBS, RecordedFixture::with_running_app().await).await;
}

#[test]
fn every_recording_is_replayed_or_excluded_with_a_reason() {
    let records = records();
    let mut told = BTreeSet::new();
    let replayed = table::all().map(|row| row.name);
    for name in replayed.chain(table::NOT_REPLAYED.iter().map(|(name, _)| *name)) {
        assert!(told.insert(name), "{name} is in the table twice");
        assert!(records.contains_key(name), "there is no record {name}");
    }
    let silent: Vec<&str> = records
        .values()
        .filter(|record| !record.counterexample && !told.contains(record.name.as_str()))
        .map(|record| record.name.as_str())
        .collect();
    assert!(silent.is_empty(), "the table has no row for {silent:?}");
    let counter: Vec<&&str> = told
        .iter()
        .filter(|name| records[**name].counterexample)
        .collect();
    assert!(
        counter.is_empty(),
        "counterexamples are not replayed: {counter:?}"
    );
}

#[test]
fn answer_shapes_accept_the_recorded_responses() {
    let records = records();
    let mut wrong = Vec::new();
    for row in table::all().filter(|row| !table::BRIEF.contains(&row.name)) {
        let exchanges = &records[row.name].exchanges;
        // Where this server responds differently, the last recorded response has another shape.
        let as_ours = exchanges.len() - usize::from(row.instead.is_some());
        for (at, exchange) in exchanges.iter().enumerate().take(as_ours) {
            if let Err(error) = row.shape(at).check(&exchange.recorded()) {
                wrong.push(format!("{}: {error}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
