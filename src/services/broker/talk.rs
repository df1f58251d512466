//! How one call to a service goes out and what its answer means, whatever the call.

use std::collections::BTreeMap;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::kernel::names::InstanceName;
use crate::kernel::problem::{Kind, Problem};
use crate::outbound::{Answer, Request, Why};
use crate::services::broker::dialect::{Dialect, Way};
use crate::services::broker::{Behalf, Bound, Broker, Fate, Fault, read};

/// The fields of a form, in order.
pub(super) type Pairs = Vec<(String, String)>;

impl Broker {
    pub(super) async fn take(
        &self,
        by: &Behalf,
        method: Method,
        name: &InstanceName,
        way: &Way,
        fields: &[(String, String)],
    ) -> Result<Answer, Fault> {
        let mut path = vec![name.as_str()];
        path.extend(way.below.iter().map(String::as_str));
        self.send(by, &method, &path, way.slash, fields).await
    }

    /// A call that the oldest dialect spells with a slash at the end. As long as the dialect is not
    /// known, a miss is tried in the other spelling.
    pub(super) async fn call(
        &self,
        by: &Behalf,
        method: Method,
        path: &[&str],
        fields: Pairs,
    ) -> Result<Answer, Fault> {
        let slash = self.dialect == Some(Dialect::Slashes);
        let answer = self.send(by, &method, path, slash, &fields).await?;
        let missed = |answer: &Answer| matches!(answer.status.as_u16(), 404 | 405);
        if !missed(&answer) || !matches!(self.dialect, None | Some(Dialect::Slashes)) {
            return Ok(answer);
        }
        let other = self.send(by, &method, path, !slash, &fields).await?;
        Ok(if missed(&other) { answer } else { other })
    }

    pub(super) async fn send(
        &self,
        by: &Behalf,
        method: &Method,
        path: &[&str],
        slash: bool,
        fields: &[(String, String)],
    ) -> Result<Answer, Fault> {
        let mut fields = fields.to_vec();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (field, header, value) in [
            ("user", "x-tsuru-user", &by.user),
            ("eventid", "x-tsuru-eventid", &by.event),
        ] {
            if value.is_empty() {
                continue;
            }
            fields.push((field.into(), value.clone()));
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert(HeaderName::from_static(header), value);
            }
        }
        let mut url = self.url(path, slash);
        let called = format!("{method} {}", url.path());
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&fields)
            .finish();
        // Services read the fields of a DELETE in its body or in its query, by their age.
        if *method == Method::DELETE && !form.is_empty() {
            url.set_query(Some(&form));
        }
        let request = Request {
            method: method.clone(),
            url,
            authorization: Some(self.authorization.clone()),
            headers,
            form: (*method != Method::GET).then_some(form),
        };
        let lane = self.id.0;
        self.outbound.send(lane, &request).await.map_err(|failure| {
            let words = format!("The service {} {} ({called}).", self.name, failure.why);
            let kind = match failure.why {
                Why::Busy => Kind::Unavailable,
                _ => Kind::Failed,
            };
            Fault {
                fate: if failure.sent {
                    Fate::Unknown
                } else {
                    Fate::NotSent
                },
                problem: Problem::new(kind, words),
            }
        })
    }

    fn url(&self, path: &[&str], slash: bool) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("resources").extend(path);
            if slash {
                segments.push("");
            }
        }
        url
    }

    /// The body of a success. Errors: the refusal, with the service's words.
    pub(super) fn accept(&self, what: &str, answer: Answer) -> Result<Vec<u8>, Fault> {
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let status = answer.status.as_u16();
        let said = read::said(&answer.body, &self.secrets);
        let said = if said.is_empty() {
            "it gave no reason"
        } else {
            &said
        };
        let kind = match status {
            404 => Kind::NotFound,
            409 => Kind::Conflict,
            412 => Kind::Precondition,
            _ => Kind::Failed,
        };
        let words = match status {
            404 => format!("{what}: the service {} does not know it: {said}", self.name),
            412 => format!("{what}: the service {} is not ready yet: {said}", self.name),
            _ => format!("{what}: the service {} said: {said} (code: {status})", self.name),
        };
        Err(Fault {
            fate: Fate::Refused(status),
            problem: Problem::new(kind, words),
        })
    }
}

pub(super) fn pairs(list: &[(&str, &str)]) -> Pairs {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn parameters(map: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    map.iter()
        .map(|(key, value)| (format!("parameters.{}", key.replace('.', "\\.")), value.clone()))
}

pub(super) fn app_fields(app: &Bound) -> Pairs {
    let mut fields = pairs(&[("app-name", &app.name), ("app-host", &app.host)]);
    fields.extend(app.hosts.iter().map(|host| ("app-hosts".into(), host.clone())));
    if !app.pool.is_empty() {
        fields.push(("app-pool-name".into(), app.pool.clone()));
    }
    fields
}
