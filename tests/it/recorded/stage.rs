//! The state that the records assume: people, teams, apps, and ways to put right between two records
//! what one of them has changed.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;

use super::props::{self, Does, Service};
use crate::house::{House, Person};

/// Who sends a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// `ana@example.com`, member of `web-team`, owner of the apps.
    Ana,
    /// May do everything, is in `data-team`.
    Root,
    /// May do nothing.
    Bob,
    /// Has a token of former times.
    Former,
}

/// A house with the people of the records.
pub(super) struct Stage {
    house: House,
    root: Person,
    ana: Person,
    bob: Person,
    service: Option<Service>,
}

const FORM: &str = "application/x-www-form-urlencoded";

impl Stage {
    /// Users and teams.
    pub(super) async fn people() -> Self {
        let house = House::with(|settings| settings.apps.drain = Duration::from_millis(50)).await;
        let root = house.admin().await;
        let ana = house.person("ana").await;
        let bob = house.person("bob").await;
        house.team(&ana, "web-team").await;
        house.team(&root, "data-team").await;
        Self {
            house,
            root,
            ana,
            bob,
            service: None,
        }
    }

    /// The same with the apps `shop` and `blog`, and a pool that is not for all.
    pub(super) async fn apps() -> Self {
        let stage = Self::people().await;
        stage
            .prepare(&[
                "POST /1.0/apps name=shop&platform=python&teamOwner=web-team&plan=small&tag=front&tag=cost%3D42",
                "POST /1.0/apps name=blog&platform=python&teamOwner=web-team&plan=small",
                "sql update app set owner = 'ana@example.com'",
                "sql update user_account set quota_in_use = 2 where email = 'ana@example.com'",
                "sql insert into pool (name, provisioner, labels) values ('private', 'local', '{\"zone\": \"a\"}')",
                "sql insert into pool_team values ('private', 'web-team')",
            ])
            .await
            .unwrap();
        stage
    }

    /// The same with three versions of `shop`, of which the last runs, with a line in its log and some
    /// variables.
    pub(super) async fn running() -> Self {
        let stage = Self::apps().await;
        props::can_build(&stage.house);
        props::everybody_listens(&stage.house).await;
        stage
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
        stage
    }

    /// The apps, and a service at work.
    pub(super) async fn services() -> Self {
        let mut stage = Self::apps().await;
        stage.service = Some(Service::start(&stage.house).await);
        stage
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.house.running.api_addr
    }

    pub(super) async fn close(self) {
        self.house.running.stop().await;
    }

    /// Does what stands before a record. Each item is one of
    ///
    /// * `METHOD path body`: asked by the administrator, with a form or JSON; `-METHOD …` may fail;
    /// * `ana METHOD path body`: the same by `ana@example.com`;
    /// * `deploy web+worker`: a new version of `shop` with these processes;
    /// * `service refuses`, `service hangs-up`, `service works`: what the service does from now on;
    /// * `sql …`: for states that no request brings about.
    pub(super) async fn prepare(&self, items: &[&str]) -> Result<(), String> {
        for item in items {
            let (word, rest) = item.split_once(' ').expect("an item has two words");
            match word {
                "sql" => {
                    let db = &self.house.running.core.db;
                    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(rest.to_owned()))
                        .execute(db)
                        .await;
                    done.map_err(|e| format!("{item}: {e}"))?;
                }
                "deploy" => self.deploy(rest).await?,
                "service" => {
                    let service = self.service.as_ref().expect("a stage with a service");
                    service.does(match rest {
                        "works" => Does::Work,
                        "refuses" => Does::Refuse,
                        "hangs-up" => Does::HangUp,
                        _ => return Err(format!("a service does not do that: {item}")),
                    });
                }
                "ana" => self.ask(&self.ana, rest).await?,
                _ => self.ask(&self.root, item).await?,
            }
        }
        Ok(())
    }

    async fn ask(&self, person: &Person, item: &str) -> Result<(), String> {
        let url = self.service.as_ref().map_or("", |service| &service.url);
        let item = item.replace("{{SERVICE}}", url);
        let mut words = item.splitn(3, ' ');
        let method = words.next().unwrap_or_default();
        let (method, may_fail) = method.strip_prefix('-').map_or((method, false), |m| (m, true));
        let path = words.next().unwrap_or_default();
        let method: Method = method.parse().map_err(|_| format!("no method: {item}"))?;
        let request = self
            .house
            .by(person, method, path)
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
            .house
            .by(&self.root, Method::POST, "/1.0/apps/shop/deploy")
            .header("content-type", "application/gzip")
            .body(props::archive(&procfile))
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let text = answer.text().await.map_err(|e| e.to_string())?;
        match text.ends_with("\nOK\n") {
            true => Ok(()),
            false => Err(format!("the deploy failed: {text}")),
        }
    }

    /// What stands for the placeholders when somebody sends, and for the names and ids that are others
    /// here than in the records.
    pub(super) async fn filling(&self, who: Who) -> Vec<(String, String)> {
        let db = &self.house.running.core.db;
        let token = match who {
            Who::Ana => &self.ana.token,
            Who::Root => &self.root.token,
            Who::Bob => &self.bob.token,
            Who::Former => "0123456789abcdef0123456789abcdef01234567",
        };
        let mut filling = vec![
            ("{{TOKEN}}".to_owned(), token.to_owned()),
            ("{{HOST}}".to_owned(), self.server().to_string()),
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
