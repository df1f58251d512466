//! The network of an app: a bridge of its own, so that its units reach each other and no other app's. It is made with
//! the first unit and removed after the last.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{ContainerInspectResponse, Ipam, IpamConfig, NetworkCreateRequest};

use super::engine::EngineError;
use super::{APP_LABEL, ASK_TIMEOUT, CHANGE_TIMEOUT, DockerRunner, HOST_LABEL, UnitSpec};
use crate::config::IpNetwork;
use crate::provisioners::ProvisionError;

/// The bits of a network of an app: room for 125 units.
const PREFIX: u8 = 25;
/// How many further ranges are tried if that of an app's number is taken.
const MAX_ATTEMPTS: u32 = 64;

fn network_name(host: &str, app: &str) -> String {
    format!("tancho-{host}-{app}")
}

/// Ensures that the network of a unit's app exists; returns its name.
pub(super) async fn ensure_network(runner: &DockerRunner, spec: &UnitSpec) -> Result<String, ProvisionError> {
    let app = spec.app.id.to_string();
    let name = network_name(&runner.config.host, &app);
    let docker = runner.engine.connect().await?;
    // Older engines make a second network of the same name, and then start no container in either.
    let _one_at_a_time = runner.shared.networks.lock().await;
    let asked = runner
        .engine
        .ask(ASK_TIMEOUT, docker.inspect_network(&name, None))
        .await;
    match asked {
        Ok(_) => return Ok(name),
        Err(EngineError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let number = u32::try_from(spec.app.number).unwrap_or(0);
    let mut last = String::new();
    for attempt in 0..MAX_ATTEMPTS {
        let subnet = choose_subnet(runner.config.networks, number.wrapping_add(attempt));
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".into()),
            labels: Some(HashMap::from([
                (HOST_LABEL.to_owned(), runner.config.host.clone()),
                (APP_LABEL.to_owned(), app.clone()),
            ])),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            ..NetworkCreateRequest::default()
        };
        let created = runner
            .engine
            .ask(CHANGE_TIMEOUT, docker.create_network(request))
            .await;
        match created {
            // Another unit of the app has made it meanwhile.
            Ok(_) | Err(EngineError::Conflict(_)) => return Ok(name),
            Err(EngineError::Refused(why)) if why.contains("overlap") => last = why,
            Err(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Refused(format!(
        "there is no free range for a network of the app in {}: {last}",
        runner.config.networks
    ))
    .into())
}

/// Removes the network of a removed container, unless others use it.
pub(super) async fn remove_unused(runner: &DockerRunner, found: &ContainerInspectResponse) {
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    let Some(app) = labels.and_then(|labels| labels.get(APP_LABEL)) else {
        return;
    };
    let name = network_name(&runner.config.host, app);
    let Ok(docker) = runner.engine.connect().await else {
        return;
    };
    // The engine refuses while a container is connected.
    let removed = runner
        .engine
        .ask(CHANGE_TIMEOUT, docker.remove_network(&name))
        .await;
    if let Err(error) = removed {
        tracing::debug!(network = name, %error, "the network of an app stays");
    }
}

/// Returns a range by number, which wraps at the end of all.
fn choose_subnet(networks: IpNetwork, number: u32) -> String {
    let (base, bits) = networks.v4_parts().unwrap_or((Ipv4Addr::new(10, 214, 0, 0), 15));
    let count = 1_u32 << PREFIX.saturating_sub(bits).min(24);
    let first = u32::from(base) + (number % count) * (1 << (32 - PREFIX));
    format!("{}/{}", Ipv4Addr::from(first), PREFIX.max(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_in_the_network_of_the_settings() {
        let all: IpNetwork = "10.214.0.0/15".parse().unwrap();
        assert_eq!(choose_subnet(all, 0), "10.214.0.0/25");
        assert_eq!(choose_subnet(all, 1), "10.214.0.128/25");
        assert_eq!(choose_subnet(all, 1023), "10.215.255.128/25");
        assert_eq!(choose_subnet(all, 1024), "10.214.0.0/25");
        let small: IpNetwork = "192.168.7.0/26".parse().unwrap();
        assert_eq!(choose_subnet(small, 9), "192.168.7.0/26");
    }
}
