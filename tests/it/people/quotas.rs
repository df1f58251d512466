use futures_util::future::join_all;
use serde_json::json;
use tancho::kernel::ids::AppId;
use tancho::kernel::names::{Email, TeamName};
use tancho::kernel::problem::Kind;
use tancho::quotas;

use super::{Body, ask, grant, put_app};
use crate::house::House;

#[tokio::test]
async fn quotas_of_users_are_seen_and_set() {
    let house = House::with(|s| s.quota.apps_per_user = 8).await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    let path = "/1.0/users/ana@example.com/quota";
    let get = format!("GET {path}");
    for who in [&root, &ana] {
        let quota = ask(&house, Some(who), &get, Body::None).await.is(200).json();
        assert_eq!(quota, json!({ "limit": 8, "inuse": 0 }));
    }
    ask(&house, Some(&bob), &get, Body::None).await.is(403);
    ask(&house, None, &get, Body::None).await.is(401);
    ask(
        &house,
        Some(&root),
        "GET /1.0/users/nobody@example.com/quota",
        Body::None,
    )
    .await
    .is(404);
    let put = format!("PUT {path}");
    for who in [&ana, &bob] {
        ask(&house, Some(who), &put, Body::Form(&[("limit", "100")]))
            .await
            .is(403);
    }
    let db = &house.running.core.db;
    sqlx::query("update user_account set quota_in_use = 3")
        .execute(db)
        .await
        .unwrap();
    for (limit, status) in [
        ("2", 403),
        ("3", 200),
        ("x", 400),
        ("-2", 400),
        ("", 400),
        ("10", 200),
    ] {
        ask(&house, Some(&root), &put, Body::Form(&[("limit", limit)]))
            .await
            .is(status);
    }
    ask(&house, Some(&root), &put, Body::Bare(json!({ "limit": 12 })))
        .await
        .is(200);
    let quota = ask(&house, Some(&ana), &get, Body::None).await.is(200).json();
    assert_eq!(quota, json!({ "limit": 12, "inuse": 3 }));
    let line = "PUT /1.0/users/nobody@example.com/quota";
    ask(&house, Some(&root), line, Body::Form(&[("limit", "1")]))
        .await
        .is(404);
    house.running.stop().await;
}

#[tokio::test]
async fn the_old_quota_route_knows_users_and_apps() {
    let house = House::start().await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    house.team(&ana, "web").await;
    let app = put_app(&house, "shop", "web", "ana@example.com").await;
    let db = &house.running.core.db;
    sqlx::query("insert into app_process (app_id, process, units) values ($1, 'web', 3)")
        .bind(app)
        .execute(db)
        .await
        .unwrap();
    let view = ask(&house, Some(&ana), "GET /quota/ana@example.com", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(
        view,
        json!({ "items": 0, "available": -1, "Limit": -1, "InUse": 0 })
    );
    sqlx::query("update user_account set quota_in_use = 10, quota_limit = 12")
        .execute(db)
        .await
        .unwrap();
    let view = ask(&house, Some(&root), "GET /quota/ana@example.com", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(
        view,
        json!({ "items": 10, "available": 2, "Limit": 12, "InUse": 10 })
    );
    sqlx::query("update app set quota_limit = 5")
        .execute(db)
        .await
        .unwrap();
    let view = ask(&house, Some(&ana), "GET /quota/shop", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(
        view,
        json!({ "items": 3, "available": 2, "Limit": 5, "InUse": 3 })
    );
    for unknown in ["nobody@example.com", "gone", "NO%20NAME"] {
        ask(&house, Some(&root), &format!("GET /quota/{unknown}"), Body::None)
            .await
            .is(404);
    }
    ask(&house, Some(&bob), "GET /quota/ana@example.com", Body::None)
        .await
        .is(403);
    ask(&house, Some(&bob), "GET /quota/shop", Body::None)
        .await
        .is(403);
    ask(&house, None, "GET /quota/shop", Body::None).await.is(401);
    house.running.stop().await;
}

#[tokio::test]
async fn members_see_the_quota_of_their_team_and_do_not_raise_it() {
    let house = House::start().await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    house.team(&ana, "web").await;
    let quota = ask(&house, Some(&ana), "GET /1.12/teams/web/quota", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(quota, json!({ "limit": -1, "inuse": 0 }));
    ask(&house, Some(&bob), "GET /1.12/teams/web/quota", Body::None)
        .await
        .is(404);
    let put = "PUT /1.12/teams/web/quota";
    ask(&house, Some(&ana), put, Body::Form(&[("limit", "5")]))
        .await
        .is(403);
    ask(&house, Some(&root), put, Body::Form(&[("limit", "5")]))
        .await
        .is(200);
    ask(&house, Some(&root), put, Body::Form(&[("limit", "many")]))
        .await
        .is(400);
    ask(
        &house,
        Some(&root),
        "PUT /1.12/teams/gone/quota",
        Body::Form(&[("limit", "5")]),
    )
    .await
    .is(404);
    let mut tx = house.running.core.db.begin().await.unwrap();
    let team = TeamName::parse("web").unwrap();
    quotas::reserve_team_app(&mut tx, &team).await.unwrap();
    quotas::reserve_team_app(&mut tx, &team).await.unwrap();
    quotas::release_team_app(&mut tx, &team).await.unwrap();
    tx.commit().await.unwrap();
    ask(&house, Some(&root), put, Body::Form(&[("limit", "0")]))
        .await
        .is(403);
    let quota = ask(&house, Some(&ana), "GET /1.12/teams/web/quota", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(quota, json!({ "limit": 5, "inuse": 1 }));
    grant(&house, &root, &bob, "team", "web", &["team.read.quota"]).await;
    ask(&house, Some(&bob), "GET /1.12/teams/web/quota", Body::None)
        .await
        .is(200);
    house.running.stop().await;
}

#[tokio::test]
async fn twenty_at_once_do_not_pass_a_limit_of_three() {
    let house = House::with(|s| s.quota.apps_per_user = 3).await;
    house.person("ana").await;
    let db = &house.running.core.db;
    let email = Email::parse("ana@example.com").unwrap();
    let taken = join_all((0..20).map(|_| async {
        let mut tx = db.begin().await.unwrap();
        let reserved = quotas::reserve_app(&mut tx, &email).await;
        tx.commit().await.unwrap();
        reserved
    }))
    .await;
    assert_eq!(taken.iter().filter(|r| r.is_ok()).count(), 3);
    let refused = taken.into_iter().find_map(Result::err).unwrap();
    assert_eq!(
        (refused.kind(), refused.words()),
        (Kind::QuotaExceeded, "Quota exceeded")
    );
    let mut tx = db.begin().await.unwrap();
    quotas::release_app(&mut tx, &email).await.unwrap();
    quotas::reserve_app(&mut tx, &email).await.unwrap();
    assert!(quotas::reserve_app(&mut tx, &email).await.is_err());
    // More than the limit is no less than the limit.
    sqlx::query("update user_account set quota_in_use = quota_limit + 2")
        .execute(&mut *tx)
        .await
        .unwrap();
    assert!(quotas::reserve_app(&mut tx, &email).await.is_err());
    drop(tx);
    house.running.stop().await;
}

#[tokio::test]
async fn units_are_counted_from_what_the_processes_ask_for() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    house.team(&ana, "web").await;
    let app = put_app(&house, "shop", "web", "ana@example.com").await;
    let db = &house.running.core.db;
    sqlx::query("update app set quota_limit = 5")
        .execute(db)
        .await
        .unwrap();
    let added = join_all((0..10).map(|n| async move {
        let mut tx = db.begin().await.unwrap();
        quotas::check_units(&mut tx, AppId(app), 2).await?;
        sqlx::query("insert into app_process (app_id, process, units) values ($1, $2, 2)")
            .bind(app)
            .bind(format!("p{n}"))
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        Ok::<_, tancho::kernel::problem::Problem>(())
    }))
    .await;
    assert_eq!(added.iter().filter(|r| r.is_ok()).count(), 2);
    let refused = added.into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.words(), "Quota exceeded. Available: 1, Requested: 2.");
    house.running.stop().await;
}
