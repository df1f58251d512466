//! `Procfile`: one process per line, `name: command`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tsuru_yaml::TsuruYaml;
use crate::kernel::error::Error;
use crate::kernel::names::ProcessName;

/// The most processes an app may have.
const MAX_PROCESSES: usize = 100;
/// The longest command, in bytes.
pub(super) const LONGEST_COMMAND: usize = 8192;

/// A process of a version: the command that its units run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessCommand {
    /// Its name in the Procfile or tsuru.yaml.
    pub name: ProcessName,
    /// A shell command line.
    pub command: String,
}

/// A parsed Procfile, in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Procfile {
    /// Its processes.
    pub processes: Vec<ProcessCommand>,
}

impl Procfile {
    /// Parses a Procfile. Errors: `Invalid`, with the number of the line.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut processes: Vec<ProcessCommand> = Vec::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| Error::invalid(format!("Procfile, line {}: {why}.", number + 1));
            let (name, command) = line
                .split_once(':')
                .ok_or_else(|| wrong("write `name: command`, as in `web: python app.py`"))?;
            let name = ProcessName::parse(name)
                .map_err(|_| wrong("the name of a process has 1 to 63 letters, digits, - and _"))?;
            let command = check_command(command).map_err(wrong)?;
            if processes.iter().any(|p| p.name == name) {
                return Err(wrong(&format!("the process {name} is defined twice")));
            }
            if processes.len() == MAX_PROCESSES {
                return Err(wrong("an app has at most 100 processes"));
            }
            processes.push(ProcessCommand { name, command });
        }
        Ok(Self { processes })
    }

    /// Takes the `release` line out: a command that runs once before a version goes live, not a process with units.
    /// It stays a process if tsuru.yaml lists it as one. Returns the command.
    pub(super) fn take_release_line(&mut self, yaml: &TsuruYaml) -> Option<String> {
        let is_release = |name: &ProcessName| name.as_str() == "release";
        if yaml.processes.iter().any(|p| is_release(&p.name)) {
            return None;
        }
        let at = self.processes.iter().position(|p| is_release(&p.name))?;
        Some(self.processes.remove(at).command)
    }
}

/// Checks a command: not empty, one line, of bounded length.
pub(super) fn check_command(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the command is missing");
    }
    if text.len() > LONGEST_COMMAND {
        return Err("the command is longer than 8,192 bytes");
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("the command has control characters");
    }
    Ok(text.to_owned())
}

/// Merges the processes of a version, by name: those of tsuru.yaml override those of the Procfile. Errors:
/// `Invalid` if there is none.
pub fn merge_processes(procfile: &Procfile, yaml: &TsuruYaml) -> Result<Vec<ProcessCommand>, Error> {
    let mut all: BTreeMap<ProcessName, String> = procfile
        .processes
        .iter()
        .map(|p| (p.name.clone(), p.command.clone()))
        .collect();
    for process in &yaml.processes {
        if let Some(command) = &process.command {
            all.insert(process.name.clone(), command.clone());
        } else if !all.contains_key(&process.name) {
            return Err(Error::invalid(format!(
                "The process {} of tsuru.yaml has no command, and the Procfile does not name it.",
                process.name
            )));
        }
    }
    if all.is_empty() {
        return Err(Error::invalid(
            "There is no process to run: write a file named Procfile with a line such as `web: python app.py`.",
        ));
    }
    if all.len() > MAX_PROCESSES {
        return Err(Error::invalid("An app has at most 100 processes."));
    }
    Ok(all
        .into_iter()
        .map(|(name, command)| ProcessCommand { name, command })
        .collect())
}

/// Returns the process that requests are routed to: `web`, else the first by name.
pub fn find_main_process(processes: &[ProcessCommand]) -> Option<&ProcessCommand> {
    processes
        .iter()
        .find(|p| p.name.as_str() == "web")
        .or_else(|| processes.iter().min_by(|a, b| a.name.cmp(&b.name)))
}
