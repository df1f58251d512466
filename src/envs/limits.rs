//! Limits on the size of an environment. Linux passes at most 128 KiB in one string (`NAME=value` and a NUL
//! byte) to a new process, and by default 2 MiB of arguments and variables together. A unit with a larger
//! environment cannot start, so such an environment is refused when it is created.
//!
//! A variable can grow without being set: an alias whose target is removed gets its own value again, and so
//! does a variable that a bind covered when the bind ends. A removal is never refused. So the longest value
//! that a variable can get is counted where variables are added, and only the present value where a process
//! is started.

use crate::envs::model::{EnvVar, VarSource};
use crate::kernel::error::Error;

/// Maximum size of one string (`MAX_ARG_STRLEN` of Linux).
const MAX_STRING: usize = 128 * 1024;
/// Maximum size of all strings together. The rest of the 2 MiB is for the command and its arguments.
const MAX_TOTAL: usize = 1536 * 1024;
/// Overhead of a variable: a longer name on its way to the unit (`sandbox::exec_stage::prefix_env`), and a
/// pointer.
const VAR_OVERHEAD: usize = 32;

/// A variable with the length of one of its values, in bytes.
pub(super) type Counted<'a> = (&'a EnvVar, usize);

fn var_size((var, value): &Counted<'_>) -> usize {
    // Plus an `=` and a NUL byte.
    var.name.as_str().len() + value + 2 + VAR_OVERHEAD
}

fn to_kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// Returns the source of a variable, and what the user can do.
fn size_advice(var: &EnvVar) -> String {
    match &var.source {
        VarSource::Service { service, instance } => {
            format!(
                "It comes from the service instance {service}/{instance}: make the service return less, or unbind it."
            )
        }
        VarSource::Platform if var.name.as_str() == "TSURU_SERVICES" => {
            "It repeats the variables of all bound service instances: unbind one, or make its service return less."
                .to_owned()
        }
        _ => "Set a shorter value, or store it in a file of the app.".to_owned(),
    }
}

/// Returns the size of all variables together.
pub(super) fn total_size<'a>(vars: impl Iterator<Item = Counted<'a>>) -> usize {
    vars.map(|var| var_size(&var)).sum()
}

/// Refuses variables that no process can be started with. Errors: `Invalid`, naming the largest variable.
pub(super) fn check_size<'a>(vars: impl Iterator<Item = Counted<'a>> + Clone) -> Result<(), Error> {
    let Some(largest) = vars.clone().max_by_key(var_size) else {
        return Ok(());
    };
    let (name, size) = (&largest.0.name, var_size(&largest));
    if size > MAX_STRING {
        return Err(Error::invalid(format!(
            "The variable {name} has {} KiB; one variable may have at most {} KiB. {}",
            to_kib(size),
            to_kib(MAX_STRING),
            size_advice(largest.0)
        )));
    }
    let total = total_size(vars);
    if total > MAX_TOTAL {
        return Err(Error::invalid(format!(
            "The variables of the app have {} KiB in total; at most {} KiB are allowed. The largest is {name} with {} KiB. {}",
            to_kib(total),
            to_kib(MAX_TOTAL),
            to_kib(size),
            size_advice(largest.0)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envs::model::Environment;

    fn environment(vars: &[(&str, usize)]) -> Environment {
        let mut environment = Environment::default();
        for (name, length) in vars {
            environment.insert(EnvVar::from_platform(name, &"x".repeat(*length), true).unwrap());
        }
        environment
    }

    #[test]
    fn variable_at_linux_limit_fits_and_one_byte_more_is_refused() {
        let longest = MAX_STRING - VAR_OVERHEAD - "A=\0".len();
        assert!(environment(&[("A", longest)]).check_size().is_ok());
        let refused = environment(&[("A", longest + 1), ("B", 5)])
            .check_size()
            .unwrap_err();
        assert!(
            refused.message().starts_with("The variable A has 129 KiB"),
            "{refused}"
        );
    }

    #[test]
    fn environment_over_total_limit_is_refused_naming_largest_variable() {
        let names: Vec<String> = (0..40).map(|n| format!("V{n}")).collect();
        let mut vars: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 38_000)).collect();
        assert!(environment(&vars).check_size().is_ok());
        vars[7].1 = 120_000;
        let refused = environment(&vars).check_size().unwrap_err();
        assert!(
            refused.message().contains("The largest is V7 with 118 KiB"),
            "{refused}"
        );
    }

    #[test]
    fn empty_environment_fits() {
        assert!(Environment::default().check_size().is_ok());
    }
}
