//! What the real client sends, sent again: the records in `tests/recorded/` (requests as they were, and
//! the answers that the client had) are replayed against a running server, each request on a raw
//! connection of its own, and the answers decoded by types that are as strict as the client.
//!
//! `table` says of every record how it is replayed, or why not; a record in neither fails the test.
//! Records whose answers no correct server gives (`counterexample`) are never replayed.

pub(crate) mod props;
mod record;
mod shapes;
mod stage;
mod table;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use record::{Filling, Record};
use shapes::Shape;
use stage::{Stage, Who};

/// How a record is replayed.
#[derive(Debug)]
struct Row {
    name: &'static str,
    who: Who,
    /// What is done before, see `Stage::prepare`.
    before: &'static [&'static str],
    /// What each answer must be, in the order of the requests; the last one stands for the rest.
    shapes: &'static [Shape],
    /// A status other than the recorded one, and why it is as good.
    instead: Option<(u16, &'static str)>,
}

const fn row(name: &'static str, shapes: &'static [Shape]) -> Row {
    Row {
        name,
        who: Who::Ana,
        before: &[],
        shapes,
        instead: None,
    }
}

impl Row {
    const fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    const fn after(mut self, before: &'static [&'static str]) -> Self {
        self.before = before;
        self
    }

    /// The last answer has this status, for a reason.
    const fn answering(mut self, status: u16, why: &'static str) -> Self {
        self.instead = Some((status, why));
        self
    }

    fn shape(&self, at: usize) -> Shape {
        *self
            .shapes
            .get(at)
            .or(self.shapes.last())
            .expect("every row has a shape")
    }

    async fn replay(&self, stage: &Stage, record: &Record) -> Result<(), String> {
        stage.prepare(self.before).await?;
        let mut filling = Filling(stage.filling(self.who).await);
        let last = record.exchanges.len() - 1;
        for (at, exchange) in record.exchanges.iter().enumerate() {
            let request = exchange.request.bytes(&filling);
            let reply = record::send(stage.server(), &request, self.shape(at) == Shape::Following).await;
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
            if self.shape(at) == Shape::Token {
                filling.take_token(&reply);
            }
        }
        Ok(())
    }
}

fn records() -> BTreeMap<String, Record> {
    let mut records = BTreeMap::new();
    for record in record::all() {
        let name = record.name.clone();
        assert!(
            records.insert(name.clone(), record).is_none(),
            "{name} is there twice"
        );
    }
    records
}

/// Replays a chapter of the table in its order, in a house of its own.
async fn replay(rows: &[Row], stage: Stage) {
    let records = records();
    let mut wrong = Vec::new();
    for row in rows {
        let record = &records[row.name];
        if let Err(problem) = row.replay(&stage, record).await {
            let argv = record.argv.join(" ");
            wrong.push(format!(
                "{} (tsuru {argv})\n  needs: {}\n  {problem}",
                row.name, record.reads
            ));
        }
    }
    assert!(wrong.is_empty(), "{} records:\n{}", wrong.len(), wrong.join("\n"));
    stage.close().await;
}

#[tokio::test]
async fn people_are_served_as_recorded() {
    replay(table::PEOPLE, Stage::people().await).await;
}

#[tokio::test]
async fn apps_are_served_as_recorded() {
    replay(table::APPS, Stage::apps().await).await;
}

#[tokio::test]
async fn running_apps_are_served_as_recorded() {
    replay(table::RUNNING, Stage::running().await).await;
}

#[tokio::test]
async fn services_are_served_as_recorded() {
    replay(table::SERVICES, Stage::services().await).await;
}

#[test]
fn every_record_is_replayed_or_says_why_not() {
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
    assert!(silent.is_empty(), "the table says nothing of {silent:?}");
    let counter: Vec<&&str> = told
        .iter()
        .filter(|name| records[**name].counterexample)
        .collect();
    assert!(counter.is_empty(), "no server is to answer so: {counter:?}");
}

#[test]
fn the_shapes_take_what_the_client_took() {
    let records = records();
    let mut wrong = Vec::new();
    for row in table::all().filter(|row| !table::BRIEF.contains(&row.name)) {
        let exchanges = &records[row.name].exchanges;
        // Where we answer otherwise, the last recorded answer has another shape.
        let as_ours = exchanges.len() - usize::from(row.instead.is_some());
        for (at, exchange) in exchanges.iter().enumerate().take(as_ours) {
            if let Err(problem) = row.shape(at).check(&exchange.recorded()) {
                wrong.push(format!("{}: {problem}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
