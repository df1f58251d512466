use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Body, ask, grant, put_app};
use crate::house::House;

fn named(name: &str) -> Body<'static> {
    Body::Bare(json!({ "name": name }))
}

#[tokio::test]
async fn teams_are_made_by_anybody_once() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let made = ask(&house, Some(&ana), "POST /teams", named("web")).await.is(200);
    assert_eq!(made.body, "");
    ask(
        &house,
        Some(&ana),
        "POST /1.0/teams",
        Body::Form(&[("name", "form"), ("tag", "a"), ("tag", "b")]),
    )
    .await
    .is(201);
    for line in ["POST /teams", "POST /1.0/teams"] {
        let again = ask(&house, Some(&ana), line, named("web")).await.is(409);
        assert_eq!(again.body, "team already exists\n");
        for bad in ["", "x", "1team", "doc", "a/b", &"x".repeat(64)] {
            ask(&house, Some(&ana), line, named(bad)).await.is(400);
        }
        ask(&house, Some(&ana), line, Body::Text("{")).await.is(400);
        ask(&house, None, line, named("new")).await.is(401);
    }
    let many = join_all((0..20).map(|_| ask(&house, Some(&ana), "POST /1.0/teams", named("rush")))).await;
    let count = |status| many.iter().filter(|a| a.status == status).count();
    assert_eq!((count(201), count(409)), (1, 19), "{many:?}");
    house.running.stop().await;
}

#[tokio::test]
async fn people_see_their_own_teams() {
    let house = House::start().await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    let body = json!({ "name": "web", "tags": ["front", "cost=42"] });
    ask(&house, Some(&ana), "POST /1.0/teams", Body::Bare(body))
        .await
        .is(201);
    ask(&house, Some(&bob), "POST /teams", named("data team"))
        .await
        .is(200);
    put_app(&house, "shop", "web", "ana@example.com").await;

    let list = |answer: super::Answer| answer.is(200).json();
    assert_eq!(
        list(ask(&house, Some(&ana), "GET /teams", Body::None).await),
        json!([{ "name": "web" }])
    );
    let modern = list(ask(&house, Some(&ana), "GET /1.0/teams", Body::None).await);
    assert_eq!(modern[0]["tags"], json!(["front", "cost=42"]));
    assert!(
        modern[0]["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("app"))
    );
    assert_eq!(modern.as_array().unwrap().len(), 1);
    let all = list(ask(&house, Some(&root), "GET /1.0/teams", Body::None).await);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(all[0]["permissions"], json!(["*"]));
    let eva = house.person("eva").await;
    assert_eq!(
        list(ask(&house, Some(&eva), "GET /teams", Body::None).await),
        json!([])
    );

    let info = list(ask(&house, Some(&ana), "GET /teams/web", Body::None).await);
    assert_eq!(info, json!({ "name": "web", "users": ["ana@example.com"] }));
    ask(&house, Some(&bob), "GET /teams/web", Body::None)
        .await
        .is(403);
    ask(&house, Some(&bob), "GET /teams/nothing", Body::None)
        .await
        .is(404);
    ask(&house, Some(&bob), "GET /teams/1", Body::None).await.is(404);
    ask(&house, Some(&root), "GET /teams/data%20team", Body::None)
        .await
        .is(200);
    let info = list(ask(&house, Some(&ana), "GET /1.4/teams/web", Body::None).await);
    let role = json!({ "Name": "team-member", "ContextType": "team", "ContextValue": "web" });
    assert_eq!(
        info["users"],
        json!([{ "Email": "ana@example.com", "Roles": [role] }])
    );
    assert_eq!(info["pools"], json!([]));
    assert_eq!(info["apps"][0]["name"], "shop");
    ask(&house, Some(&bob), "GET /1.4/teams/web", Body::None)
        .await
        .is(404);
    house.running.stop().await;
}

#[tokio::test]
async fn members_bring_in_and_send_away_members() {
    let house = House::start().await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    let eva = house.person("eva").await;
    house.team(&ana, "web").await;
    let put = "PUT /teams/web/bob@example.com";
    ask(&house, None, put, Body::None).await.is(401);
    ask(
        &house,
        Some(&ana),
        "PUT /teams/nothing/bob@example.com",
        Body::None,
    )
    .await
    .is(404);
    ask(&house, Some(&bob), put, Body::None).await.is(403);
    for unknown in ["nobody@example.com", "myuser"] {
        ask(
            &house,
            Some(&ana),
            &format!("PUT /teams/web/{unknown}"),
            Body::None,
        )
        .await
        .is(404);
    }
    let last = "DELETE /teams/web/ana@example.com";
    ask(&house, Some(&ana), last, Body::None).await.is(403);
    ask(
        &house,
        Some(&ana),
        "DELETE /teams/web/nobody@example.com",
        Body::None,
    )
    .await
    .is(403);
    ask(&house, Some(&ana), put, Body::None).await.is(200);
    ask(&house, Some(&ana), put, Body::None).await.is(409);
    ask(&house, Some(&bob), "GET /teams/web", Body::None)
        .await
        .is(200);

    ask(
        &house,
        Some(&ana),
        "DELETE /teams/nothing/bob@example.com",
        Body::None,
    )
    .await
    .is(404);
    ask(
        &house,
        Some(&eva),
        "DELETE /teams/web/bob@example.com",
        Body::None,
    )
    .await
    .is(403);
    for unknown in ["nobody@example.com", "myuser", "eva@example.com"] {
        ask(
            &house,
            Some(&ana),
            &format!("DELETE /teams/web/{unknown}"),
            Body::None,
        )
        .await
        .is(404);
    }
    let leaving = join_all([
        ask(&house, Some(&ana), last, Body::None),
        ask(
            &house,
            Some(&bob),
            "DELETE /teams/web/bob@example.com",
            Body::None,
        ),
    ])
    .await;
    let mut statuses: Vec<u16> = leaving.iter().map(|a| a.status).collect();
    statuses.sort();
    assert_eq!(statuses, [200, 403], "{leaving:?}");

    house.team(&ana, "red").await;
    grant(&house, &root, &eva, "team", "red", &["team.read", "team.update"]).await;
    let refused = ask(&house, Some(&eva), "PUT /teams/red/bob@example.com", Body::None)
        .await
        .is(403);
    assert!(
        refused.body.contains("not authorized"),
        "nobody gives what they lack: {refused:?}"
    );
    ask(
        &house,
        Some(&eva),
        "DELETE /teams/red/eva@example.com",
        Body::None,
    )
    .await
    .is(200);
    ask(&house, Some(&eva), "GET /teams/red", Body::None)
        .await
        .is(403);
    house.running.stop().await;
}

#[tokio::test]
async fn a_team_that_is_used_stays() {
    let house = House::start().await;
    let (ana, bob) = (house.person("ana").await, house.person("bob").await);
    house.team(&ana, "web").await;
    house.team(&ana, "ops").await;
    let app = put_app(&house, "shop", "web", "ana@example.com").await;
    let refused = ask(&house, Some(&ana), "DELETE /1.0/teams/web", Body::None)
        .await
        .is(403);
    assert!(refused.body.ends_with(":\nApps: shop\n"), "{refused:?}");
    ask(&house, Some(&ana), "DELETE /teams/web", Body::None)
        .await
        .is(403);
    // Classic asks for apps before it asks who calls, and tells a stranger no names.
    let stranger = ask(&house, Some(&bob), "DELETE /teams/web", Body::None)
        .await
        .is(403);
    assert!(!stranger.body.contains("shop"));
    ask(&house, Some(&bob), "DELETE /1.0/teams/web", Body::None)
        .await
        .is(404);
    ask(&house, Some(&bob), "DELETE /teams/ops", Body::None)
        .await
        .is(404);
    ask(&house, Some(&ana), "DELETE /teams/nothing", Body::None)
        .await
        .is(404);
    ask(&house, Some(&ana), "DELETE /1.0/teams/nothing", Body::None)
        .await
        .is(404);
    ask(&house, None, "DELETE /teams/web", Body::None).await.is(401);
    let db = &house.running.core.db;
    sqlx::query("insert into app_team values ($1, 'ops')")
        .bind(app)
        .execute(db)
        .await
        .unwrap();
    ask(&house, Some(&ana), "DELETE /teams/ops", Body::None)
        .await
        .is(403);
    sqlx::query("delete from app").execute(db).await.unwrap();
    ask(&house, Some(&ana), "DELETE /teams/ops", Body::None)
        .await
        .is(200);
    ask(&house, Some(&ana), "DELETE /1.0/teams/web", Body::None)
        .await
        .is(200);
    // A later team of that name is not theirs.
    house.team(&bob, "web").await;
    ask(&house, Some(&ana), "GET /teams/web", Body::None)
        .await
        .is(403);
    house.running.stop().await;
}

#[tokio::test]
async fn a_renamed_team_keeps_its_members_and_things() {
    let house = House::start().await;
    let (ana, bob) = (house.person("ana").await, house.person("bob").await);
    house.team(&ana, "web").await;
    house.team(&ana, "taken").await;
    put_app(&house, "shop", "web", "ana@example.com").await;
    let to = |name: &str| Body::Bare(json!({ "newname": name }));
    ask(&house, Some(&ana), "PUT /1.6/teams/nothing", to("front"))
        .await
        .is(404);
    ask(&house, Some(&bob), "PUT /1.6/teams/web", to("front"))
        .await
        .is(404);
    ask(&house, Some(&ana), "PUT /1.6/teams/web", to("taken"))
        .await
        .is(409);
    ask(&house, Some(&ana), "PUT /1.6/teams/web", to("1x"))
        .await
        .is(400);
    ask(&house, None, "PUT /1.6/teams/web", to("front")).await.is(401);
    ask(
        &house,
        Some(&ana),
        "PUT /1.6/teams/web",
        Body::Bare(json!({ "tags": ["a"] })),
    )
    .await
    .is(200);
    ask(&house, Some(&ana), "PUT /1.6/teams/web", to("front"))
        .await
        .is(200);
    ask(&house, Some(&ana), "GET /teams/web", Body::None)
        .await
        .is(404);
    let info = ask(&house, Some(&ana), "GET /1.4/teams/front", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(info["tags"], json!(["a"]));
    assert_eq!(info["apps"][0]["teamowner"], "front");
    let teams: Value = ask(&house, Some(&ana), "GET /teams", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(teams, json!([{ "name": "front" }, { "name": "taken" }]));
    house.running.stop().await;
}
