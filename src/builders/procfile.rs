//! `Procfile`: one line a process, `name: command`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tsuru_yaml::TsuruYaml;
use crate::kernel::names::ProcessName;
use crate::kernel::problem::Problem;

/// The most processes an app may have.
const MOST: usize = 100;
/// The longest command, in bytes.
pub(super) const LONGEST_COMMAND: usize = 8192;

/// A process of a version: what its units run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As the Procfile or tsuru.yaml calls it.
    pub name: ProcessName,
    /// A line for the shell.
    pub command: String,
}

/// A Procfile that has been read; in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Procfile {
    /// Its processes.
    pub processes: Vec<Process>,
}

impl Procfile {
    /// Reads the text. Errors: `Invalid`, with the number of the line.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut processes: Vec<Process> = Vec::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| Problem::invalid(format!("Procfile, line {}: {why}.", number + 1));
            let (name, command) = line
                .split_once(':')
                .ok_or_else(|| wrong("write `name: command`, as in `web: python app.py`"))?;
            let name = ProcessName::parse(name)
                .map_err(|_| wrong("the name of a process has 1 to 63 letters, digits, - and _"))?;
            let command = check_command(command).map_err(wrong)?;
            if processes.iter().any(|p| p.name == name) {
                return Err(wrong(&format!("there is a process {name} already")));
            }
            if processes.len() == MOST {
                return Err(wrong("an app has at most 100 processes"));
            }
            processes.push(Process { name, command });
        }
        Ok(Self { processes })
    }
}

/// A command that may be run: not empty, one line, not endless.
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

/// The processes of a version, by name: those of the Procfile, over them those of tsuru.yaml.
/// Errors: `Invalid` when there is none.
pub fn processes(procfile: &Procfile, yaml: &TsuruYaml) -> Result<Vec<Process>, Problem> {
    let mut all: BTreeMap<ProcessName, String> = procfile
        .processes
        .iter()
        .map(|p| (p.name.clone(), p.command.clone()))
        .collect();
    for process in &yaml.processes {
        if let Some(command) = &process.command {
            all.insert(process.name.clone(), command.clone());
        } else if !all.contains_key(&process.name) {
            return Err(Problem::invalid(format!(
                "The process {} of tsuru.yaml has no command, and the Procfile does not name it.",
                process.name
            )));
        }
    }
    if all.is_empty() {
        return Err(Problem::invalid(
            "There is no process to run: write a file named Procfile with a line such as `web: python app.py`.",
        ));
    }
    if all.len() > MOST {
        return Err(Problem::invalid("An app has at most 100 processes."));
    }
    Ok(all
        .into_iter()
        .map(|(name, command)| Process { name, command })
        .collect())
}

/// The process that requests go to: `web`, else the first by name.
pub fn main_process(processes: &[Process]) -> Option<&Process> {
    processes
        .iter()
        .find(|p| p.name.as_str() == "web")
        .or_else(|| processes.iter().min_by(|a, b| a.name.cmp(&b.name)))
}
