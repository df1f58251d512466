//! The frame answers.

use reqwest::{Method, StatusCode};

use crate::house::House;

#[tokio::test]
async fn unknown_paths_are_404_and_carry_a_request_id() {
    let house = House::start().await;
    let answer = house
        .request(Method::GET, "/nothing/here")
        .header("x-request-id", "abc-1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["x-request-id"], "abc-1");
    house.running.stop().await;
}
