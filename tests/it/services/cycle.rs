//! Each of the four services over the whole life cycle of an instance, with the calls that its documentation
//! promises, in their order, and no others.

use super::programs::{InstanceLife, NODE, ProgramFixture, ServiceProgram, TODAY, Y2012, Y2014};
use super::*;

async fn check_life_cycle(program: ServiceProgram) {
    let setup = ProgramFixture::new(program).await;
    let life = InstanceLife::new(&setup, "my-db", "shop").await;
    let fixture = &setup.fixture;
    assert_eq!(life.make_call(0).await.0, 200);
    let (status, text) = life.make_call(1).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(parsed(&text), (setup.program.variables)());
    let known = format!("service where dialect = '{}'", setup.program.dialect);
    assert_eq!(fixture.count(&known).await, 1);
    let bind = life.calls().await.pop().unwrap();
    for field in setup.program.fields {
        assert_eq!(bind["form"][field], json!(["shop.localhost:8888"]), "{field}");
    }
    // Two units are added, one is removed.
    for number in [1, 2] {
        life.insert_unit(number).await;
        life.wait_for_told_units(number.into()).await;
    }
    life.make_call(3).await;
    life.wait_for_told_units(1).await;
    for call in [4, 5] {
        let (status, text) = life.make_call(call).await;
        assert_eq!(status, 200, "{text}");
    }
    setup.assert_nothing_left().await;
    let calls = life.calls().await;
    let lines: Vec<&Value> = calls.iter().map(|call| &call["call"]).collect();
    assert_eq!(lines, setup.program.life);
    for call in &calls {
        let login = (&call["user"], &call["password"]);
        assert_eq!(login, (&json!("db"), &json!("pw-canary")));
    }
    setup.fixture.end().await;
}

#[tokio::test]
async fn service_of_2012_gets_the_documented_calls_over_its_life_cycle() {
    check_life_cycle(Y2012).await;
}

#[tokio::test]
async fn service_of_2014_gets_the_documented_calls_over_its_life_cycle() {
    check_life_cycle(Y2014).await;
}

#[tokio::test]
async fn node_service_of_2014_gets_the_documented_calls_over_its_life_cycle() {
    check_life_cycle(NODE).await;
}

#[tokio::test]
async fn current_service_gets_the_documented_calls_over_its_life_cycle() {
    check_life_cycle(TODAY).await;
}
