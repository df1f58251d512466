//! What the engine says of a container, as the report of its unit.

use std::collections::HashMap;
use std::net::SocketAddr;

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HealthStatusEnum};
use chrono::{DateTime, Utc};

use super::unit_notes::UnitNotes;
use super::{RUNS_ONCE_LABEL, UNIT_LABEL, UnitId, UnitReport, UnitState};
use crate::kernel::byte_size::ByteSize;
use crate::kernel::log_text::{clean_line, clip_line};

/// Bytes of the output of a health check that are shown.
const MAX_HEALTH_OUTPUT: usize = 200;
/// The engine's own, if a container names none.
const DEFAULT_GRACE: i32 = 10;

/// Returns the unit of a container.
pub(super) fn unit_of(labels: Option<&HashMap<String, String>>) -> Option<UnitId> {
    UnitId::parse(labels?.get(UNIT_LABEL)?).ok()
}

/// Returns the state of a container in the engine's words.
pub(super) fn status_text(found: &ContainerInspectResponse) -> Option<&'static str> {
    Some(match found.state.as_ref()?.status? {
        ContainerStateStatusEnum::CREATED => "created",
        ContainerStateStatusEnum::RUNNING => "running",
        ContainerStateStatusEnum::PAUSED => "paused",
        ContainerStateStatusEnum::RESTARTING => "restarting",
        ContainerStateStatusEnum::REMOVING => "removing",
        ContainerStateStatusEnum::EXITED => "exited",
        ContainerStateStatusEnum::DEAD => "dead",
        _ => return None,
    })
}

/// True if a container has run and does not run any more.
pub(super) fn has_ended(found: &ContainerInspectResponse) -> bool {
    matches!(status_text(found), Some("exited" | "dead"))
}

/// True for a container that is not started again when its command has ended.
pub(super) fn runs_once(found: &ContainerInspectResponse) -> bool {
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    labels.is_some_and(|labels| labels.contains_key(RUNS_ONCE_LABEL))
}

/// Returns the grace period of a container.
pub(super) fn grace_seconds(found: &ContainerInspectResponse) -> i32 {
    let config = found.config.as_ref();
    let own = config.and_then(|config| config.stop_timeout);
    own.and_then(|own| i32::try_from(own).ok())
        .unwrap_or(DEFAULT_GRACE)
}

/// Makes the report; `None` for a container that is being removed.
pub(super) fn make_report(
    unit: UnitId,
    found: &ContainerInspectResponse,
    notes: UnitNotes,
    is_starting: bool,
) -> Option<UnitReport> {
    let state = found.state.clone().unwrap_or_default();
    let (reported, reason) = match status_text(found)? {
        "removing" => return None,
        "created" if is_starting => (UnitState::Created, notes.reason),
        "created" => (UnitState::Stopped, Some("its start was interrupted".to_owned())),
        "running" => running_state(&state, notes.reason),
        "paused" => (
            UnitState::Error,
            Some("it was paused in the Docker Engine".to_owned()),
        ),
        "restarting" => (UnitState::Starting, notes.reason),
        _ if notes.is_stopped => (UnitState::Stopped, None),
        _ if runs_once(found) && state.exit_code == Some(0) => (UnitState::Stopped, None),
        _ if runs_once(found) => (UnitState::Stopped, Some(describe_end(found))),
        _ => (UnitState::Error, Some(describe_end(found))),
    };
    Some(UnitReport {
        unit,
        state: reported,
        address: find_address(found),
        restarts: notes.restarts,
        reason,
        exit: match has_ended(found) {
            true => exit_status(&state),
            false => notes.exit,
        },
        started_at: parse_time(state.started_at.as_deref()),
    })
}

fn running_state(state: &ContainerState, last: Option<String>) -> (UnitState, Option<String>) {
    let Some(health) = &state.health else {
        return (UnitState::Started, last);
    };
    match health.status {
        Some(HealthStatusEnum::STARTING) => (UnitState::Starting, last),
        Some(HealthStatusEnum::UNHEALTHY) => {
            let log = health.log.as_deref().unwrap_or_default();
            let output = log
                .last()
                .and_then(|check| check.output.as_deref())
                .unwrap_or_default();
            let line = clean_line(output.trim().lines().last().unwrap_or_default());
            let words = format!(
                "the health check of its image fails: {}",
                clip_line(line, MAX_HEALTH_OUTPUT)
            );
            (UnitState::Error, Some(words.trim_end_matches(": ").to_owned()))
        }
        _ => (UnitState::Started, last),
    }
}

/// Says how the last run of a container ended.
pub(super) fn describe_end(found: &ContainerInspectResponse) -> String {
    let state = found.state.clone().unwrap_or_default();
    let memory = found
        .host_config
        .as_ref()
        .and_then(|config| config.memory)
        .unwrap_or(0);
    let error = state.error.clone().filter(|error| !error.is_empty());
    match (state.exit_code, error) {
        _ if state.oom_killed == Some(true) && memory > 0 => format!(
            "killed: over its memory limit of {}",
            ByteSize(memory.unsigned_abs())
        ),
        (_, Some(error)) => format!("could not be started: {}", clean_line(&error)),
        (Some(code @ 129..=192), _) => format!("killed by signal {}", code - 128),
        (Some(code @ 126..=127), _) => {
            format!(
                "exited with status {code} (its command is not in the image, or cannot be run: see its log)"
            )
        }
        (Some(code), _) => format!("exited with status {code}"),
        (None, _) => "ended with an unknown status".to_owned(),
    }
}

/// Returns the exit status of the last run, or 128 + the signal.
pub(super) fn exit_status(state: &ContainerState) -> Option<i32> {
    state.exit_code.and_then(|code| i32::try_from(code).ok())
}

/// Parses a time of the engine, which writes the year 1 for none.
pub(super) fn parse_time(text: Option<&str>) -> Option<DateTime<Utc>> {
    let time: DateTime<Utc> = text?.parse().ok()?;
    (time.timestamp() > 0).then_some(time)
}

/// Returns where the port of a running container is published.
fn find_address(found: &ContainerInspectResponse) -> Option<SocketAddr> {
    let ports = found.network_settings.as_ref()?.ports.as_ref()?;
    let binding = ports.values().flatten().flatten().next()?;
    let (ip, port) = (binding.host_ip.as_deref()?, binding.host_port.as_deref()?);
    Some((ip.parse::<std::net::IpAddr>().ok()?, port.parse().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(serde_json::json!({
            "State": state,
            "HostConfig": { "Memory": 64 << 20 },
            "NetworkSettings": { "Ports": { "8080/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "4711" }] } },
        }))
        .unwrap()
    }

    fn report(state: serde_json::Value, notes: UnitNotes) -> UnitReport {
        make_report(UnitId::parse("u").unwrap(), &container(state), notes, false).unwrap()
    }

    #[test]
    fn states_of_containers_are_those_of_units() {
        use serde_json::json;
        for (state, reported, reason) in [
            (json!({ "Status": "running" }), UnitState::Started, ""),
            (
                json!({ "Status": "running", "Health": { "Status": "starting" } }),
                UnitState::Starting,
                "",
            ),
            (
                json!({ "Status": "running", "Health": { "Status": "healthy" } }),
                UnitState::Started,
                "",
            ),
            (
                json!({ "Status": "running", "Health": { "Status": "unhealthy",
                        "Log": [{ "Output": "a\nno \u{1b}answer\n" }] } }),
                UnitState::Error,
                "the health check of its image fails: no \u{fffd}answer",
            ),
            (
                json!({ "Status": "created" }),
                UnitState::Stopped,
                "its start was interrupted",
            ),
            (
                json!({ "Status": "exited", "ExitCode": 3 }),
                UnitState::Error,
                "exited with status 3",
            ),
            (
                json!({ "Status": "exited", "ExitCode": 143 }),
                UnitState::Error,
                "killed by signal 15",
            ),
            (
                json!({ "Status": "exited", "ExitCode": 137, "OOMKilled": true }),
                UnitState::Error,
                "killed: over its memory limit of 64M",
            ),
            (
                json!({ "Status": "exited", "ExitCode": 127 }),
                UnitState::Error,
                "exited with status 127 (its command is not in the image, or cannot be run: see its log)",
            ),
        ] {
            let found = report(state.clone(), UnitNotes::default());
            assert_eq!(found.state, reported, "{state}");
            assert_eq!(found.reason.unwrap_or_default(), reason, "{state}");
            assert_eq!(found.address, Some("127.0.0.1:4711".parse().unwrap()));
        }
        let stopped = UnitNotes {
            is_stopped: true,
            ..UnitNotes::default()
        };
        let found = report(json!({ "Status": "exited", "ExitCode": 137 }), stopped);
        assert_eq!((found.state, found.exit), (UnitState::Stopped, Some(137)));
        let removing = container(json!({ "Status": "removing" }));
        let unit = UnitId::parse("u").unwrap();
        assert_eq!(make_report(unit, &removing, UnitNotes::default(), false), None);
    }

    #[test]
    fn run_that_has_not_begun_has_no_start() {
        assert_eq!(parse_time(Some("0001-01-01T00:00:00Z")), None);
        assert!(parse_time(Some("2026-11-30T21:40:28.329283395Z")).is_some());
    }
}
