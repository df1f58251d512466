//! Each operation that both editions offer is done in one and read in the other, both ways.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::recorded::test_service::{self, RecordedService};
use crate::test_server::{PASSWORD, TestServer, TestUser};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApiEdition {
    Classic,
    Modern,
}

use ApiEdition::{Classic, Modern};

/// Two users: `root`, who may do everything, and `ana`, who does the changes.
struct EditionFixture {
    tancho: TestServer,
    service: RecordedService,
    root: TestUser,
    ana: TestUser,
    /// The edition in which changes are made.
    here: ApiEdition,
}

#[tokio::test]
async fn changes_in_one_edition_are_visible_in_the_other() {
    let tancho =
        TestServer::start_with(|settings| settings.apps.drain_timeout = Duration::from_millis(50)).await;
    test_service::install_platforms(&tancho);
    test_service::listen_for_all_units(&tancho).await;
    let mut world = EditionFixture {
        service: RecordedService::start(&tancho).await,
        root: tancho.login_admin().await,
        ana: tancho.create_user("ana").await,
        tancho,
        here: Classic,
    };
    world.tancho.create_team(&world.ana, "red").await;
    world.tancho.create_team(&world.root, "blue").await;
    for here in [Classic, Modern] {
        world.here = here;
        world.users().await;
        world.teams().await;
        world.apps().await;
        world.releases().await;
        world.services().await;
    }
    world.tancho.running.drain_and_stop().await;
}

fn names(list: &Value, key: &str) -> Vec<String> {
    let items = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let name = |item: &Value| item[key].as_str().unwrap_or_default().to_owned();
    items.iter().map(name).collect()
}

impl EditionFixture {
    /// Sends a request; fails the test unless it succeeds.
    async fn send_ok(&self, who: &TestUser, verb: &str, path: &str, body: Value) -> String {
        let body = Some(body).filter(|body| !body.is_null());
        let method: Method = verb.parse().unwrap();
        let (status, text) = self.tancho.send_json(who, method, path, body).await;
        assert!((200..300).contains(&status), "{verb} {path}: {status} {text}");
        assert!(!text.contains("\"Error\""), "{verb} {path}: {text}");
        text
    }

    /// Makes a change in this edition; verb, path and body are given for each.
    async fn write_in_edition(
        &self,
        who: &TestUser,
        classic: (&str, &str, Value),
        modern: (&str, &str, Value),
    ) -> String {
        let (verb, path, body) = match self.here {
            Classic => classic,
            Modern => modern,
        };
        self.send_ok(who, verb, path, body).await
    }

    /// Reads in the other edition.
    async fn read_in_other(&self, who: &TestUser, classic: &str, modern: &str) -> Value {
        self.tancho.read_json(who, self.other_path(classic, modern)).await
    }

    fn other_path<'a>(&self, classic: &'a str, modern: &'a str) -> &'a str {
        match self.here {
            Classic => modern,
            Modern => classic,
        }
    }

    /// Returns the status with which the other edition answers a read.
    async fn status(&self, who: &TestUser, classic: &str, modern: &str) -> u16 {
        let path = self.other_path(classic, modern);
        self.tancho.send_json(who, Method::GET, path, None).await.0
    }

    /// Returns a name that the other round does not use.
    fn name(&self, stem: &str) -> String {
        match self.here {
            Classic => format!("{stem}-old"),
            Modern => format!("{stem}-new"),
        }
    }

    async fn login_there(&self, email: &str, password: &str) -> (u16, String) {
        let (classic, modern) = (
            format!("/users/{email}/tokens"),
            format!("/1.0/users/{email}/tokens"),
        );
        let request = self
            .tancho
            .request(Method::POST, self.other_path(&classic, &modern));
        let answer = request
            .json(&json!({ "password": password }))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn users(&self) {
        let email = format!("{}@example.com", self.name("carl"));
        let new = json!({ "email": email, "password": PASSWORD });
        let path = match self.here {
            Classic => "/users",
            Modern => "/1.0/users",
        };
        let answer = self.tancho.request(Method::POST, path).json(&new).send().await;
        assert!(answer.unwrap().status().is_success());
        let (status, text) = self.login_there(&email, PASSWORD).await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let carl = TestUser {
            token: answer["token"].as_str().unwrap().to_owned(),
            email,
        };

        let change = json!({ "old": PASSWORD, "new": "secret456" });
        let classic = ("PUT", "/users/password", change.clone());
        self.write_in_edition(&carl, classic, ("PUT", "/1.0/users/password", change))
            .await;
        assert_eq!(self.login_there(&carl.email, PASSWORD).await.0, 401);
        assert_eq!(self.login_there(&carl.email, "secret456").await.0, 200);

        // Only the modern edition changes quotas; both show them.
        let path = format!("/1.0/users/{}/quota", carl.email);
        self.send_ok(&self.root, "PUT", &path, json!({ "limit": 7 }))
            .await;
        let classic = format!("/quota/{}", carl.email);
        let old = self.tancho.read_json(&self.root, &classic).await;
        let new = self.tancho.read_json(&self.root, &path).await;
        assert_eq!(
            (&old["available"], &new["limit"]),
            (&json!(7), &json!(7)),
            "{old}"
        );

        self.login_ends(&carl).await;
        let (status, text) = self.login_there(&carl.email, "secret456").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200, "{text}");
        let carl = TestUser {
            token: answer["token"].as_str().unwrap().to_owned(),
            ..carl
        };
        let classic = ("DELETE", "/users", Value::Null);
        self.write_in_edition(&carl, classic, ("DELETE", "/1.0/users", Value::Null))
            .await;
        assert_eq!(self.login_there(&carl.email, "secret456").await.0, 404);
    }

    async fn login_ends(&self, carl: &TestUser) {
        assert_eq!(self.status(carl, "/teams", "/1.0/teams").await, 200);
        let classic = ("DELETE", "/users/tokens", Value::Null);
        self.write_in_edition(carl, classic, ("DELETE", "/1.0/users/tokens", Value::Null))
            .await;
        assert_eq!(self.status(carl, "/teams", "/1.0/teams").await, 401);
    }

    async fn members_there(&self, team: &str) -> Vec<String> {
        let (classic, modern) = (format!("/teams/{team}"), format!("/1.4/teams/{team}"));
        let seen = self.read_in_other(&self.ana, &classic, &modern).await;
        match self.here {
            Classic => names(&seen["users"], "Email"),
            Modern => serde_json::from_value(seen["users"].clone()).unwrap(),
        }
    }

    async fn teams(&self) {
        let team = self.name("green");
        let new = json!({ "name": team });
        let classic = ("POST", "/teams", new.clone());
        self.write_in_edition(&self.ana, classic, ("POST", "/1.0/teams", new))
            .await;
        let list = self.read_in_other(&self.ana, "/teams", "/1.0/teams").await;
        assert!(names(&list, "name").contains(&team), "{list}");
        assert_eq!(self.members_there(&team).await, ["ana@example.com"]);

        let root = &self.root.email;
        let (member, role) = (
            format!("/teams/{team}/{root}"),
            json!({ "email": root, "context": team }),
        );
        let classic = ("PUT", member.as_str(), Value::Null);
        let modern = ("POST", "/1.0/roles/team-member/user", role);
        // In the classic edition a member adds members, in the modern one a user who assigns roles.
        let host = match self.here {
            Classic => &self.ana,
            Modern => &self.root,
        };
        self.write_in_edition(host, classic, modern).await;
        assert_eq!(self.members_there(&team).await.len(), 2);
        let held = format!("/1.0/roles/team-member/user/{root}?context={team}");
        let classic = ("DELETE", member.as_str(), Value::Null);
        self.write_in_edition(host, classic, ("DELETE", &held, Value::Null))
            .await;
        assert_eq!(self.members_there(&team).await, ["ana@example.com"]);

        let (classic, modern) = (format!("/teams/{team}"), format!("/1.4/teams/{team}"));
        let gone = format!("/1.0/teams/{team}");
        let remove = ("DELETE", classic.as_str(), Value::Null);
        self.write_in_edition(&self.ana, remove, ("DELETE", &gone, Value::Null))
            .await;
        assert_eq!(self.status(&self.ana, &classic, &modern).await, 404);
    }

    /// Returns an app as the other edition shows it.
    async fn app(&self, name: &str) -> Value {
        let (classic, modern) = (format!("/apps/{name}"), format!("/1.0/apps/{name}"));
        self.read_in_other(&self.ana, &classic, &modern).await
    }

    /// Returns the name of a field of an app in the other edition.
    async fn field_name(&self, name: &str, classic: &str, modern: &str) -> Value {
        self.app(name).await[self.other_path(classic, modern)].clone()
    }

    /// Makes the same change to an item of an app: `tail` is below the app's path.
    async fn change_app_item(
        &self,
        name: &str,
        verb: &str,
        classic: &str,
        modern: &str,
        body: (Value, Value),
    ) -> String {
        let (old, new) = (
            format!("/apps/{name}{classic}"),
            format!("/1.0/apps/{name}{modern}"),
        );
        self.write_in_edition(&self.ana, (verb, &old, body.0), (verb, &new, body.1))
            .await
    }

    async fn apps(&self) {
        let app = self.name("shop");
        let new = json!({ "name": app, "platform": "procfile", "teamOwner": "red" });
        let classic = ("POST", "/apps", new.clone());
        self.write_in_edition(&self.ana, classic, ("POST", "/1.0/apps", new))
            .await;
        let list = self.read_in_other(&self.ana, "/apps", "/1.0/apps").await;
        assert!(names(&list, "name").contains(&app), "{list}");
        assert_eq!(self.field_name(&app, "Name", "name").await, app.as_str());
        assert_eq!(self.field_name(&app, "Framework", "platform").await, "procfile");

        let nothing = || (Value::Null, Value::Null);
        self.change_app_item(&app, "PUT", "/blue", "/teams/blue", nothing())
            .await;
        assert_eq!(
            self.field_name(&app, "Teams", "teams").await,
            json!(["blue", "red"])
        );
        self.change_app_item(&app, "DELETE", "/blue", "/teams/blue", nothing())
            .await;
        assert_eq!(self.field_name(&app, "Teams", "teams").await, json!(["red"]));

        let host = format!("{app}.example.test");
        let cname = json!({ "cname": [host] });
        self.change_app_item(&app, "POST", "/cname", "/cname", (cname.clone(), cname.clone()))
            .await;
        let seen = self.field_name(&app, "cname", "cname").await;
        assert_eq!(
            seen,
            self.one_or_list(&host),
            "the classic edition shows one only"
        );
        self.change_app_item(&app, "DELETE", "/cname", "/cname", (cname.clone(), cname))
            .await;
        assert_ne!(self.field_name(&app, "cname", "cname").await, seen);

        self.tags(&app).await;
        self.env(&app).await;
        self.swap(&app).await;
        self.change_app_item(&app, "DELETE", "", "", nothing()).await;
        let (classic, modern) = (format!("/apps/{app}"), format!("/1.0/apps/{app}"));
        assert_eq!(self.status(&self.ana, &classic, &modern).await, 404);
    }

    /// Only the modern edition changes tags; the client removes them by an empty one.
    async fn tags(&self, app: &str) {
        for (tags, left) in [(json!(["a", "b"]), json!(["a", "b"])), (json!([""]), json!([]))] {
            let path = format!("/1.0/apps/{app}");
            self.send_ok(&self.ana, "PUT", &path, json!({ "tags": tags }))
                .await;
            assert_eq!(self.field_name(app, "tags", "tags").await, left);
        }
    }

    fn one_or_list(&self, text: &str) -> Value {
        match self.here {
            Classic => json!([text]),
            Modern => json!(text),
        }
    }

    async fn vars(&self, app: &str) -> Vec<String> {
        let (classic, modern) = (format!("/apps/{app}/env"), format!("/1.0/apps/{app}/env"));
        let seen = self.read_in_other(&self.ana, &classic, &modern).await;
        let own = seen
            .as_array()
            .unwrap()
            .iter()
            .filter(|var| var["managedBy"] != "tsuru");
        own.map(|var| {
            format!(
                "{}={}",
                var["name"].as_str().unwrap(),
                var["value"].as_str().unwrap()
            )
        })
        .collect()
    }

    async fn env(&self, app: &str) {
        let modern = json!({ "Envs": [
            { "Name": "COLOUR", "Value": "red & white" }, { "Name": "SIZE", "Value": "" },
        ] });
        let classic = json!({ "COLOUR": "red & white", "SIZE": "" });
        self.change_app_item(app, "POST", "/env", "/env", (classic, modern))
            .await;
        assert_eq!(self.vars(app).await, ["COLOUR=red & white", "SIZE="]);
        let gone = (json!(["SIZE"]), Value::Null);
        self.change_app_item(app, "DELETE", "/env", "/env?env=SIZE", gone)
            .await;
        assert_eq!(self.vars(app).await, ["COLOUR=red & white"]);
    }

    /// Swapping has one path for both editions; both show the addresses of an app.
    async fn swap(&self, app: &str) {
        let other = self.name("other");
        let new = json!({ "name": other, "platform": "procfile", "teamOwner": "red" });
        self.send_ok(&self.ana, "POST", "/apps", new).await;
        let before = (
            self.field_name(app, "ip", "ip").await,
            self.field_name(&other, "ip", "ip").await,
        );
        let verb = match self.here {
            Classic => "PUT",
            Modern => "POST",
        };
        let path = format!("/swap?app1={app}&app2={other}");
        self.send_ok(&self.ana, verb, &path, Value::Null).await;
        let after = (
            self.field_name(app, "ip", "ip").await,
            self.field_name(&other, "ip", "ip").await,
        );
        assert_eq!(after, (before.1, before.0));
        self.send_ok(&self.ana, "DELETE", &format!("/apps/{other}"), Value::Null)
            .await;
    }

    /// Returns the running units, as the other edition names them.
    async fn units(&self, app: &str) -> Vec<String> {
        let units = self.field_name(app, "Units", "units").await;
        let running = units
            .as_array()
            .unwrap()
            .iter()
            .filter(|u| u["Status"] == "started");
        running.map(|u| u["Name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the other edition shows so many units; draining units disappear with a delay.
    async fn wait_for_units(&self, app: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let units = self.units(app).await;
            if units.len() == count {
                return units;
            }
            assert!(Instant::now() < deadline, "{count} units, not {units:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn deploy(&self, app: &str) {
        let (classic, modern) = (format!("/apps/{app}/deploy"), format!("/1.0/apps/{app}/deploy"));
        let path = match self.here {
            Classic => classic,
            Modern => modern,
        };
        let request = self.tancho.request_as(&self.ana, Method::POST, &path);
        let request = request.header("content-type", "application/gzip");
        let answer = request
            .body(test_service::archive("web: serve\n"))
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("\nOK\n"), "{text}");
    }

    async fn releases(&self) {
        let app = self.name("busy");
        let new = json!({ "name": app, "platform": "procfile", "teamOwner": "red" });
        self.send_ok(&self.ana, "POST", "/1.0/apps", new).await;
        self.deploy(&app).await;
        let (classic, modern) = (format!("/deploys?app={app}"), format!("/1.0/deploys?app={app}"));
        let deploys = self.read_in_other(&self.ana, &classic, &modern).await;
        assert_eq!(names(&deploys, "Image"), ["v1"]);
        assert_eq!(self.field_name(&app, "deploys", "deploys").await, 1);
        let first = self.wait_for_units(&app, 1).await;

        let nothing = || (Value::Null, Value::Null);
        let add = json!({ "units": 2 });
        self.change_app_item(&app, "PUT", "/units", "/units", (add.clone(), add))
            .await;
        self.wait_for_units(&app, 3).await;
        self.change_app_item(&app, "DELETE", "/units?units=2", "/units?units=2", nothing())
            .await;
        self.wait_for_units(&app, 1).await;
        self.change_app_item(&app, "POST", "/restart", "/restart", nothing())
            .await;
        assert_ne!(
            self.wait_for_units(&app, 1).await,
            first,
            "a restart replaces them"
        );
        self.change_app_item(&app, "POST", "/stop", "/stop", nothing())
            .await;
        self.wait_for_units(&app, 0).await;
        self.change_app_item(&app, "POST", "/start", "/start", nothing())
            .await;
        self.wait_for_units(&app, 1).await;

        let lines = json!(["hello from the app"]);
        let (classic, modern) = ("/log?source=cron", "/log?source=cron");
        self.change_app_item(&app, "POST", classic, modern, (lines.clone(), lines))
            .await;
        let tail = "log?lines=10&source=cron";
        let (classic, modern) = (format!("/apps/{app}/{tail}"), format!("/1.0/apps/{app}/{tail}"));
        let seen = self.read_in_other(&self.ana, &classic, &modern).await;
        assert_eq!(names(&seen, "Message"), ["hello from the app"]);
        self.change_app_item(&app, "DELETE", "", "", nothing()).await;
    }

    async fn services(&self) {
        let service = self.name("db");
        let manifest = format!(
            "id: {service}\nusername: admin\npassword: s3cret\nteam: red\nendpoint:\n  production: {}\n",
            self.service.url
        );
        let form = json!({
            "id": service, "username": "admin", "password": "s3cret", "team": "red", "endpoint": self.service.url,
        });
        match self.here {
            Classic => {
                let request = self
                    .tancho
                    .request_as(&self.ana, Method::POST, "/services")
                    .body(manifest);
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
            }
            Modern => drop(self.send_ok(&self.ana, "POST", "/1.0/services", form).await),
        }
        let list = self.read_in_other(&self.ana, "/services", "/1.0/services").await;
        assert!(names(&list, "service").contains(&service), "{list}");

        let (classic, modern) = (
            format!("/services/{service}/doc"),
            format!("/1.0/services/{service}/doc"),
        );
        let text = json!({ "doc": "Use it with care." });
        let old = ("PUT", classic.as_str(), text.clone());
        self.write_in_edition(&self.ana, old, ("PUT", &modern, text))
            .await;
        let path = self.other_path(&classic, &modern);
        let (_, doc) = self.tancho.send_json(&self.ana, Method::GET, path, None).await;
        assert!(doc.contains("Use it with care."), "{doc}");
        self.instances(&service).await;

        let (classic, modern) = (format!("/services/{service}"), format!("/1.0/services/{service}"));
        let remove = ("DELETE", classic.as_str(), Value::Null);
        self.write_in_edition(&self.ana, remove, ("DELETE", &modern, Value::Null))
            .await;
        assert_eq!(self.status(&self.ana, &classic, &modern).await, 404);
    }

    async fn instances(&self, service: &str) {
        let (instance, app) = (self.name("orders"), self.name("user"));
        let new = json!({ "name": app, "platform": "procfile", "teamOwner": "red" });
        self.send_ok(&self.ana, "POST", "/apps", new).await;
        let below = format!("/1.0/services/{service}/instances");
        let old = json!({ "name": instance, "service_name": service, "plan": "small", "owner": "red" });
        let new = json!({ "name": instance, "plan": "small", "owner": "red" });
        let classic = ("POST", "/services/instances", old);
        self.write_in_edition(&self.ana, classic, ("POST", &below, new))
            .await;
        let list = self
            .read_in_other(&self.ana, "/services/instances", "/1.0/services/instances")
            .await;
        let group = list
            .as_array()
            .unwrap()
            .iter()
            .find(|group| group["service"] == service);
        assert_eq!(group.unwrap()["instances"], json!([instance]));
        let (classic, modern) = (
            format!("/services/instances/{instance}"),
            format!("{below}/{instance}"),
        );
        assert_eq!(
            self.read_in_other(&self.ana, &classic, &modern).await["Apps"],
            json!([])
        );
        let status = (format!("{classic}/status"), format!("{modern}/status"));
        assert_eq!(self.status(&self.ana, &status.0, &status.1).await, 200);

        let (old, new) = (
            format!("{classic}/{app}"),
            format!("/1.13/services/{service}/instances/{instance}/apps/{app}"),
        );
        self.write_in_edition(&self.ana, ("PUT", &old, Value::Null), ("PUT", &new, Value::Null))
            .await;
        assert_eq!(
            self.read_in_other(&self.ana, &classic, &modern).await["Apps"],
            json!([app])
        );
        assert_eq!(
            self.vars(&app).await,
            ["DATABASE_HOST=db.example.test", "DATABASE_PASSWORD=s3cret"]
        );
        self.write_in_edition(
            &self.ana,
            ("DELETE", &old, Value::Null),
            ("DELETE", &new, Value::Null),
        )
        .await;
        assert_eq!(self.vars(&app).await, [""; 0]);

        let remove = ("DELETE", classic.as_str(), Value::Null);
        self.write_in_edition(&self.ana, remove, ("DELETE", &modern, Value::Null))
            .await;
        assert_eq!(self.status(&self.ana, &classic, &modern).await, 404);
        self.send_ok(&self.ana, "DELETE", &format!("/apps/{app}"), Value::Null)
            .await;
    }
}
