//! What reaches the environment of a unit: what was set and bound before there was any, and every sign of it.

use reqwest::Method;

use crate::apps::Source;
use crate::house::House;
use crate::services::Slow;

/// What a shell would run, end or expand.
const HOSTILE: &str = "a\"b'c`touch pwned`$(touch pwned)${HOME};\\n é\nexport PWNED=yes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_and_bound_before_the_first_deploy_is_there_to_the_letter() {
    let house = House::start().await;
    let store = Slow::start();
    store.register(&house).await;
    house.create_app("shop").await;
    let form = [("name", "my-store"), ("owner", "crew")];
    let path = "/1.0/services/store/instances";
    let answer = house.by(Method::POST, path).form(&form).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    house.set_env("shop", "HOSTILE", HOSTILE).await;
    let bind = "/1.13/services/store/instances/my-store/apps/shop";
    house.change(Method::PUT, bind, &[("noRestart", "false")]).await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    for (name, value) in [
        ("HOSTILE", HOSTILE),
        ("PWNED", "-"),
        ("STORE_URL", "store://my-store"),
        ("TSURU_APPNAME", "shop"),
    ] {
        let path = format!("/env/{name}");
        assert_eq!(
            house.visit("shop", &path).await,
            (200, value.to_owned()),
            "{name}"
        );
    }
    house
        .change(Method::DELETE, bind, &[("noRestart", "false")])
        .await;
    assert_eq!(house.visit("shop", "/env/STORE_URL").await.1, "-");
    assert_eq!(house.visit("shop", "/env/HOSTILE").await.1, HOSTILE);
}
