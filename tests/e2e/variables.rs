//! The environment of a unit: variables that were set and bound before the first deploy, with every character
//! unchanged.

use reqwest::Method;

use crate::apps::AppSource;
use crate::services::SlowService;
use crate::test_instance::TestInstance;

/// Characters that a shell would interpret.
const HOSTILE: &str = "a\"b'c`touch pwned`$(touch pwned)${HOME};\\n é\nexport PWNED=yes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_set_before_the_first_deploy_reach_units_unchanged() {
    let tancho = TestInstance::start().await;
    let store = SlowService::start();
    store.register(&tancho).await;
    tancho.create_app("shop").await;
    let form = [("name", "my-store"), ("owner", "crew")];
    let path = "/1.0/services/store/instances";
    let answer = tancho
        .request_as_admin(Method::POST, path)
        .form(&form)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    tancho.set_env("shop", "HOSTILE", HOSTILE).await;
    let bind = "/1.13/services/store/instances/my-store/apps/shop";
    tancho.change(Method::PUT, bind, &[("noRestart", "false")]).await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    for (name, value) in [
        ("HOSTILE", HOSTILE),
        ("PWNED", "-"),
        ("STORE_URL", "store://my-store"),
        ("TSURU_APPNAME", "shop"),
    ] {
        let path = format!("/env/{name}");
        assert_eq!(
            tancho.get_app("shop", &path).await,
            (200, value.to_owned()),
            "{name}"
        );
    }
    tancho
        .change(Method::DELETE, bind, &[("noRestart", "false")])
        .await;
    assert_eq!(tancho.get_app("shop", "/env/STORE_URL").await.1, "-");
    assert_eq!(tancho.get_app("shop", "/env/HOSTILE").await.1, HOSTILE);
}
