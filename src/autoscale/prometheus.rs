//! Queries of Prometheus servers, which may hang, refuse, or answer anything.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use crate::apps::ScaleQuery;
use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::outbound::OutboundRequest;

/// Time limit for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer to an instant query.
#[derive(Deserialize)]
struct QueryAnswer {
    data: QueryData,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum QueryData {
    Scalar((f64, String)),
    Vector(Vec<QuerySample>),
}

#[derive(Deserialize)]
struct QuerySample {
    value: (f64, String),
}

/// Asks for the value of a query. Errors: a reason for the owner of the rule.
pub(super) async fn ask_value(core: &Core, app: AppId, query: &ScaleQuery) -> Result<f64, String> {
    let name = |why: &str| format!("The query {:?} {why}.", query.name);
    let request = OutboundRequest {
        method: Method::GET,
        url: query.url().map_err(|error| error.message().to_owned())?,
        authorization: None,
        headers: HeaderMap::new(),
        form: None,
    };
    // The app has slots of its own, so that its servers hold up no other app's.
    let asked = tokio::time::timeout(TIMEOUT, core.outbound.send_request(app.0, "", &request)).await;
    let answer = match asked {
        Ok(Ok(answer)) if answer.status.is_success() => answer,
        Ok(Ok(answer)) => {
            return Err(name(&format!(
                "was answered with the status {}",
                answer.status.as_u16()
            )));
        }
        Ok(Err(error)) => return Err(name(&format!("was not answered: the server {}", error.kind))),
        Err(_) => return Err(name("was not answered in time")),
    };
    parse_answer(&answer.body).ok_or_else(|| name("was answered with something that is not one number"))
}

/// Returns the number of an answer: a scalar, or a vector with one element.
fn parse_answer(body: &[u8]) -> Option<f64> {
    let answer: QueryAnswer = serde_json::from_slice(body).ok()?;
    let text = match answer.data {
        QueryData::Scalar((_, text)) => text,
        QueryData::Vector(samples) => match <[QuerySample; 1]>::try_from(samples) {
            Ok([sample]) => sample.value.1,
            Err(_) => return None,
        },
    };
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_with_one_number_counts() {
        for (body, value) in [
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2.5"]}}"#,
                Some(2.5),
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1.5,"7"]}]}}"#,
                Some(7.0),
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
                None,
            ),
            (
                r#"{"data":{"resultType":"vector","result":[{"value":[1,"7"]},{"value":[1,"8"]}]}}"#,
                None,
            ),
            (r#"{"data":{"resultType":"matrix","result":[]}}"#, None),
            (r#"{"data":{"resultType":"scalar","result":[1,"NaN"]}}"#, None),
            ("it works!", None),
            ("", None),
        ] {
            assert_eq!(parse_answer(body.as_bytes()), value, "{body}");
        }
    }
}
