//! The unit of a run: its process, its environment, its limits.

use std::time::Duration;

use chrono::SecondsFormat;

use crate::core::Core;
use crate::envs;
use crate::jobs::runs::store::{self, ActiveRun, ProcessRow};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{EnvName, ProcessName};
use crate::kernel::secret::Secret;
use crate::provisioners::{RestartPolicy, UnitApp, UnitSpec};
use crate::{units, versions, volumes};

/// The process that a job runs, if its version has several.
const PROCESS: &str = "job";

/// Builds the spec; the inner error is a reason why the run cannot be started.
pub(super) async fn build_spec(core: &Core, run: &ActiveRun) -> Result<Result<UnitSpec, String>, Error> {
    let Some(row) = store::find_spec(&core.db, run.run_id).await? else {
        return Ok(Err("its version is gone".into()));
    };
    let processes = store::list_processes(&core.db, run.job, run.version).await?;
    let process = match choose_process(&processes) {
        Ok(process) => process,
        Err(reason) => return Ok(Err(reason)),
    };
    let command = match row.command.is_empty() {
        true => process.command.clone(),
        false => format!("exec {}", quote_words(&row.command)),
    };
    let mut connection = core.db.acquire().await?;
    let environment = envs::effective_environment(core, &mut connection, run.job, &run.name).await?;
    drop(connection);
    let mut env: Vec<(EnvName, Secret)> = environment
        .iter()
        .map(|var| (var.name.clone(), var.value.clone()))
        .collect();
    units::set_process_env(&mut env, &process.process, run.version)?;
    for (name, value) in [
        ("TANCHO_RUN_ID", run.run_id.to_string()),
        ("TANCHO_RUN_ATTEMPT", (run.attempt + 1).to_string()),
        (
            "TANCHO_SCHEDULED_AT",
            run.scheduled_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        ),
    ] {
        let name = EnvName::parse(name)?;
        env.retain(|(known, _)| *known != name);
        env.push((name, Secret::new(value)));
    }
    Ok(Ok(UnitSpec {
        unit: run.unit.clone(),
        app: UnitApp {
            id: run.job,
            number: row.number,
            name: run.name.clone(),
        },
        process: ProcessName::parse(&process.process)?,
        version: run.version,
        artifact: versions::version_artifact(core, row.holder, row.image.as_deref())?,
        before: Vec::new(),
        command,
        after: Vec::new(),
        env,
        memory_bytes: process.memory_bytes.try_into().unwrap_or(0),
        cpu_milli: process.cpu_milli.try_into().unwrap_or(0),
        grace: grace(core),
        restart: RestartPolicy::Never,
        volumes: match volumes::list_app_mounts(core, run.job).await {
            Ok(volumes) => volumes,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                return Ok(Err(error.message().to_owned()));
            }
            Err(error) => return Err(error),
        },
    }))
}

fn grace(core: &Core) -> Duration {
    core.settings.apps.stop_grace
}

/// Chooses the process `job`, or the only one.
fn choose_process(processes: &[ProcessRow]) -> Result<&ProcessRow, String> {
    let named = processes.iter().find(|process| process.process == PROCESS);
    match (named, processes) {
        (Some(process), _) | (None, [process]) => Ok(process),
        (None, []) => Err("its version has no process".into()),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|process| process.process.as_str()).collect();
            Err(format!(
                "its version has the processes {}: name the one to run {PROCESS}",
                names.join(", ")
            ))
        }
    }
}

/// Quotes words for a shell, which then takes each as it is.
fn quote_words(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> ProcessRow {
        ProcessRow {
            process: name.into(),
            command: format!("run {name}"),
            memory_bytes: 0,
            cpu_milli: 0,
        }
    }

    #[test]
    fn job_runs_the_process_of_that_name_or_the_only_one() {
        let chosen = |names: &[&str]| {
            let processes: Vec<ProcessRow> = names.iter().map(|name| process(name)).collect();
            choose_process(&processes).map(|process| process.process.clone())
        };
        assert_eq!(chosen(&["job", "web"]), Ok("job".into()));
        assert_eq!(chosen(&["cleanup"]), Ok("cleanup".into()));
        assert!(chosen(&[]).is_err());
        assert!(chosen(&["web", "worker"]).unwrap_err().contains("web, worker"));
    }

    #[test]
    fn words_of_a_command_reach_the_program_as_they_are() {
        let words = [
            "printf",
            "%s|",
            "two words",
            "it's",
            "$HOME",
            "`id`",
            "a\nb",
            "",
            "*",
        ];
        let words = words.map(str::to_owned);
        let line = quote_words(&words);
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(line)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "two words|it's|$HOME|`id`|a\nb||*|"
        );
    }
}
