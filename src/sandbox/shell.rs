//! Chooses the shell that runs a command line of an app or a build.

use std::ffi::OsStr;
use std::path::Path;

const SH: &str = "/bin/sh";
const BASH: &str = "/bin/bash";

/// Returns `/bin/sh`; but bash, if installed, when a variable has a name that is no shell identifier, such as
/// `DB-HOST`: bash passes such variables on to its children, other shells (dash) drop them.
pub fn shell_for<N: AsRef<OsStr>>(names: impl IntoIterator<Item = N>) -> &'static str {
    let all_are_words = names.into_iter().all(|name| is_shell_name(name.as_ref()));
    match all_are_words || !Path::new(BASH).exists() {
        true => SH,
        false => BASH,
    }
}

/// Returns the shell for people: bash if it is installed.
pub fn interactive_shell() -> &'static str {
    match Path::new(BASH).exists() {
        true => BASH,
        false => SH,
    }
}

fn is_shell_name(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn variable_with_a_dash_reaches_child_processes() {
        assert_eq!(shell_for(["HOME", "A_1"]), SH);
        let names = ["DB-HOST", "B"];
        let output = Command::new(shell_for(names))
            .args(["-c", "env"])
            .env_clear()
            .envs(names.map(|name| (name, "value")))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let arrives = text.lines().any(|line| line == "DB-HOST=value");
        assert_eq!(arrives, Path::new(BASH).exists(), "{text}");
    }
}
