//! Each of the four services through the whole life of an instance, with the calls that its document
//! promises, in their order, and no others.

use super::programs::{Life, NODE, Program, Stage, TODAY, Y2012, Y2014};
use super::*;

async fn lives(program: Program) {
    let stage = Stage::new(program).await;
    let life = Life::new(&stage, "my-db", "shop").await;
    let scene = &stage.scene;
    assert_eq!(life.step(0).await.0, 200);
    let (status, text) = life.step(1).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(parsed(&text), (stage.program.variables)());
    let known = format!("service where dialect = '{}'", stage.program.dialect);
    assert_eq!(scene.count(&known).await, 1);
    let bind = life.calls().await.pop().unwrap();
    for field in stage.program.fields {
        assert_eq!(bind["form"][field], json!(["shop.localhost:8888"]), "{field}");
    }
    // Two units come, one goes.
    for number in [1, 2] {
        life.unit(number).await;
        life.told(number.into()).await;
    }
    life.step(3).await;
    life.told(1).await;
    for call in [4, 5] {
        let (status, text) = life.step(call).await;
        assert_eq!(status, 200, "{text}");
    }
    stage.assert_nothing_left().await;
    let calls = life.calls().await;
    let lines: Vec<&Value> = calls.iter().map(|call| &call["call"]).collect();
    assert_eq!(lines, stage.program.life);
    for call in &calls {
        let login = (&call["user"], &call["password"]);
        assert_eq!(login, (&json!("db"), &json!("pw-canary")));
    }
    stage.scene.end().await;
}

#[tokio::test]
async fn a_service_of_2012_lives_as_its_document_says() {
    lives(Y2012).await;
}

#[tokio::test]
async fn a_service_of_2014_lives_as_its_document_says() {
    lives(Y2014).await;
}

#[tokio::test]
async fn a_service_by_the_rules_of_2014_in_another_language_lives_as_they_say() {
    lives(NODE).await;
}

#[tokio::test]
async fn a_service_of_today_lives_as_its_document_says() {
    lives(TODAY).await;
}
