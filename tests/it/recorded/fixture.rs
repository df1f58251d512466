//! The state that the recordings assume: users, teams, apps, and the ways to restore between two recordings
//! what one of them has changed.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use tancho::config::VolumePlan;

use super::test_service::{self, RecordedService, ServiceMode};
use crate::test_server::{TestServer, TestUser};

/// The user who sends a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// `ana@example.com`, member of `web-team`, owner of the apps.
    Ana,
    /// May do everything, is in `data-team`.
    Root,
    /// May do nothing.
    Bob,
    /// Has an expired token.
    Former,
}

/// A server with the users of the recordings.
pub(super) struct RecordedFixture {
    tancho: TestServer,
    root: TestUser,
    ana: TestUser,
    bob: TestUser,
    service: Option<RecordedService>,
}

const FORM: &str = "application/x-www-form-urlencoded";

fn volume_plan(name: &str) -> VolumePlan {
    VolumePlan {
        provisioner: "local".into(),
        name: name.parse().unwrap(),
        options: [("size".to_owned(), "20G".to_owned())].into(),
    }
}

impl RecordedFixture {
    /// Creates users and teams.
    pub(super) async fn with_users() -> Self {
        let tancho = TestServer::start_with(|settings| {
            settings.apps.drain_timeout = Duration::from_millis(50);
            settings.volumes.plans = ["disk", "fast"].map(volume_plan).into();
        })
        .await;
        let root = tancho.login_admin().await;
        let ana = tancho.create_user("ana").await;
        let bob = tancho.create_user("bob").await;
        tancho.create_team(&ana, "web-team").await;
        tancho.create_team(&root, "data-team").await;
        Self {
            tancho,
            root,
            ana,
            bob,
            service: None,
        }
    }

    /// Creates the same with the apps `shop` and `blog`, and a pool that is not public.
    pub(super) async fn with_apps() -> Self {
        let fixture = Self::with_users().await;
        fixture
            .prepare(&[
                "POST /1.0/apps name=shop&platform=python&teamOwner=web-team&plan=small&tag=front&tag=cost%3D42",
                "POST /1.0/apps name=blog&platform=python&teamOwner=web-team&plan=small",
                "sql update app set owner = 'ana@example.com', owner_id = find_user('ana@example.com')",
                r#"POST /1.0/pools {"name":"private","labels":{"zone":"a"}}"#,
                "POST /1.0/pools/private/team team=web-team",
            ])
            .await
            .unwrap();
        fixture
    }

    /// Creates the same with three versions of `shop`, of which the last runs, a line in its log and some
    /// variables.
    pub(super) async fn with_running_app() -> Self {
        let fixture = Self::with_apps().await;
        test_service::install_platforms(&fixture.tancho);
        test_service::listen_for_all_units(&fixture.tancho).await;
        fixture
            .prepare(&[
                // Builds nothing, so that a version takes a moment.
                "sql update app set platform = 'procfile'",
                "deploy web+worker",
                "deploy web+worker",
                "deploy web+worker",
                "POST /1.0/apps/shop/env Envs.0.Name=GREETING&Envs.0.Value=hello&NoRestart=true",
                "POST /1.0/apps/shop/env Envs.0.Name=API_KEY&Envs.0.Value=k-123&Private=true&NoRestart=true",
                "POST /1.0/apps/shop/log?source=web [\"listening on 8888\"]",
            ])
            .await
            .unwrap();
        fixture
    }

    /// Creates the apps and a running service.
    pub(super) async fn with_service() -> Self {
        let mut fixture = Self::with_apps().await;
        fixture.service = Some(RecordedService::start(&fixture.tancho).await);
        fixture
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.tancho.running.api_addr.unwrap()
    }

    pub(super) async fn close(self) {
        self.tancho.running.drain_and_stop().await;
    }

    /// Runs the preparation of a recording. Each item is one of
    /// * `METHOD path body`: a request of the administrator, with a form or JSON; `-METHOD …` may fail;
    /// * `ana METHOD path body`: the same by `ana@example.com`;
    /// * `deploy web+worker`: a new version of `shop` with these processes;
    /// * `service refuses`, `service hangs-up`, `service works`: how the service behaves from now on;
    /// * `sql …`: for states that no request reaches.
    pub(super) async fn prepare(&self, items: &[&str]) -> Result<(), String> {
        for item in items {
            let (word, rest) = item.split_once(' ').expect("an item has two words");
            match word {
                "sql" => {
                    let db = &self.tancho.running.core.db;
                    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(rest.to_owned()))
                        .execute(db)
                        .await;
                    done.map_err(|e| format!("{item}: {e}"))?;
                }
                "deploy" => self.deploy(rest).await?,
                "service" => {
                    let service = self.service.as_ref().expect("a fixture with a service");
                    service.set_mode(match rest {
                        "works" => ServiceMode::Work,
                        "refuses" => ServiceMode::Refuse,
                        "hangs-up" => ServiceMode::HangUp,
                        _ => return Err(format!("no mode of the service: {item}")),
                    });
                }
                "ana" => self.send_item(&self.ana, rest).await?,
                _ => self.send_item(&self.root, item).await?,
            }
        }
        Ok(())
    }

    async fn send_item(&self, user: &TestUser, item: &str) -> Result<(), String> {
        let url = self.service.as_ref().map_or("", |service| &service.url);
        let item = item.replace("{{SERVICE}}", url);
        let mut words = item.splitn(3, ' ');
        let method = words.next().unwrap_or_default();
        let (method, may_fail) = method.strip_prefix('-').map_or((method, false), |m| (m, true));
        let path = words.next().unwrap_or_default();
        let method: Method = method.parse().map_err(|_| format!("no method: {item}"))?;
        let request = self
            .tancho
            .request_as(user, method, path)
            .header("content-type", FORM)
            .body(words.next().unwrap_or_default().to_owned());
        let answer = request.send().await.map_err(|e| format!("{item}: {e}"))?;
        let (status, text) = (
            answer.status(),
            answer.text().await.map_err(|e| format!("{item}: {e}"))?,
        );
        match may_fail || (status.is_success() && !text.contains("\"Error\"")) {
            true => Ok(()),
            false => Err(format!("{item}: {status} {text}")),
        }
    }

    async fn deploy(&self, processes: &str) -> Result<(), String> {
        let procfile: String = processes
            .split('+')
            .map(|process| format!("{process}: echo hello;\n"))
            .collect();
        let answer = self
            .tancho
            .request_as(&self.root, Method::POST, "/1.0/apps/shop/deploy")
            .header("content-type", "application/gzip")
            .body(test_service::archive(&procfile))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let text = answer.text().await.map_err(|e| e.to_string())?;
        match text.ends_with("\nOK\n") {
            true => Ok(()),
            false => Err(format!("the deploy failed: {text}")),
        }
    }

    /// Returns the values of the placeholders for a sender, and those of names and ids that differ from the
    /// recordings.
    pub(super) async fn placeholders(&self, who: Sender) -> Vec<(String, String)> {
        let db = &self.tancho.running.core.db;
        let token = match who {
            Sender::Ana => &self.ana.token,
            Sender::Root => &self.root.token,
            Sender::Bob => &self.bob.token,
            Sender::Former => "0123456789abcdef0123456789abcdef01234567",
        };
        let mut filling = vec![
            ("{{TOKEN}}".to_owned(), token.to_owned()),
            ("{{HOST}}".to_owned(), self.server().to_string()),
            ("{{WSKEY}}".to_owned(), "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
        ];
        let unit: Option<String> = sqlx::query_scalar(
            "select unit_id from unit where process = 'web' and phase = 'serving' order by created_at limit 1",
        )
        .fetch_optional(db)
        .await
        .unwrap();
        filling.extend(unit.map(|unit| ("shop-web-1".to_owned(), unit)));
        let deploy: Option<String> = sqlx::query_scalar(
            "select event_id from event where kind = 'app.deploy' and outcome = 'done' limit 1",
        )
        .fetch_optional(db)
        .await
        .unwrap();
        for id in ["5f3e8a1b9c4d2e0001a7b3c4", "5f3e8a1b9c4d2e0001a7b3c0"] {
            filling.extend(deploy.clone().map(|deploy| (id.to_owned(), deploy)));
        }
        filling
    }
}
