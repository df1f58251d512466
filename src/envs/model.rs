//! Variables and their sources.

use std::collections::BTreeMap;

use crate::envs::limits;
use crate::envs::reserved::find_reader;
use crate::kernel::error::Error;
use crate::kernel::names::EnvName;
use crate::kernel::secret::Secret;

/// The source of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VarSource {
    /// A user, through the API; possibly on behalf of a tool that manages it.
    User { managed_by: String },
    /// A bound instance.
    Service { service: String, instance: String },
    /// Tancho.
    Platform,
}

impl VarSource {
    /// Returns the name of the source in the API: `managedBy`.
    pub fn managed_by(&self) -> String {
        match self {
            VarSource::User { managed_by } => managed_by.clone(),
            VarSource::Service { service, instance } => format!("{service}/{instance}"),
            VarSource::Platform => "tsuru".into(),
        }
    }
}

/// A variable.
#[derive(Clone, Debug)]
pub struct EnvVar {
    pub name: EnvName,
    pub value: Secret,
    pub public: bool,
    /// Name of the variable whose value this one takes.
    pub alias: String,
    pub source: VarSource,
}

impl EnvVar {
    /// Creates a variable of Tancho itself.
    pub(super) fn from_platform(name: &str, value: &str, public: bool) -> Result<Self, Error> {
        Ok(Self {
            name: EnvName::parse(name)?,
            value: Secret::new(value),
            public,
            alias: String::new(),
            source: VarSource::Platform,
        })
    }
}

/// Variables by name, with notes for the event.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    vars: BTreeMap<EnvName, EnvVar>,
    /// Bytes of the longest value that a variable can get when others are removed.
    longest: BTreeMap<EnvName, usize>,
    notes: Vec<String>,
}

impl Environment {
    /// Adds a variable; it covers one of the same name.
    pub fn insert(&mut self, var: EnvVar) {
        let longest = self.longest.entry(var.name.clone()).or_default();
        *longest = (*longest).max(var.value.expose_secret().len());
        self.vars.insert(var.name.clone(), var);
    }

    /// Adds a variable of a bind. A reserved name is left out; a variable that it covers is noted.
    pub(super) fn insert_bound(&mut self, var: EnvVar) {
        let from = var.source.managed_by();
        let name = &var.name;
        if let Some(reader) = find_reader(name.as_str()) {
            self.notes.push(format!(
                "{name} of the service instance {from} is left out: {reader} reads it, and services may not set it."
            ));
            return;
        }
        match self.vars.get(name).map(|covered| &covered.source) {
            Some(source @ VarSource::Service { .. }) => self.notes.push(format!(
                "{name} has the value of the service instance {from}; the value of {} is in TSURU_SERVICES.",
                source.managed_by()
            )),
            Some(_) => self.notes.push(format!(
                "{name} has the value of the service instance {from}; the value set on the app applies again after the unbind."
            )),
            None => {}
        }
        self.insert(var);
    }

    /// Returns notes for the event on variables that are left out or cover others; without values.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the maximum size that it can reach by removals, in bytes, as counted at the start of a
    /// process.
    pub fn most_bytes(&self) -> usize {
        limits::total_size(self.with_longest())
    }

    /// Refuses an environment that no process can be started with. Errors: `Invalid`, naming the largest
    /// variable.
    pub fn check_size(&self) -> Result<(), Error> {
        limits::check_size(self.iter().map(|var| (var, var.value.expose_secret().len())))
    }

    /// Refuses an environment that no process could be started with after some removal. Errors: as
    /// `check_size`.
    pub fn check_stays_fit(&self) -> Result<(), Error> {
        limits::check_size(self.with_longest())
    }

    fn with_longest(&self) -> impl Iterator<Item = (&EnvVar, usize)> + Clone {
        self.vars
            .iter()
            .map(|(name, var)| (var, self.longest.get(name).copied().unwrap_or_default()))
    }

    /// Refuses names that a service returned and that the app has from another source: a user, or another
    /// service. Other instances of the same service may return the same names. Errors: `Conflict`, naming the
    /// variable.
    pub fn check_name_conflicts<'a>(
        &self,
        service: &str,
        names: impl IntoIterator<Item = &'a EnvName>,
    ) -> Result<(), Error> {
        let taken = names.into_iter().find_map(|name| {
            let var = self.vars.get(name)?;
            match &var.source {
                VarSource::Service { service: other, .. } if other == service => None,
                source => Some((name, source)),
            }
        });
        match taken {
            None => Ok(()),
            Some((name, source @ VarSource::Service { .. })) => Err(Error::conflict(format!(
                "The service {service} returned the variable {name}, which the app has from the service instance {}: unbind that one first.",
                source.managed_by()
            ))),
            Some((name, _)) => Err(Error::conflict(format!(
                "The service {service} returned the variable {name}, which is set on the app: unset it first (without a restart, if the app needs it), then bind."
            ))),
        }
    }

    /// Returns a variable by name.
    pub fn get(&self, name: &str) -> Option<&EnvVar> {
        self.vars.values().find(|var| var.name.as_str() == name)
    }

    /// Iterates over the variables, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &EnvVar> + Clone {
        self.vars.values()
    }

    /// Returns names and values, for an encrypted snapshot.
    pub fn to_map(&self) -> BTreeMap<&str, &str> {
        self.vars
            .values()
            .map(|var| (var.name.as_str(), var.value.expose_secret()))
            .collect()
    }

    /// Replaces the value of each alias by that of its target. One level: an alias of an alias keeps its own
    /// value, so cycles are impossible.
    pub(super) fn resolve_aliases(mut self) -> Self {
        let named: Vec<(EnvName, Secret)> = self
            .vars
            .values()
            .filter(|var| !var.alias.is_empty())
            .filter_map(|var| {
                let target = self.get(&var.alias).filter(|target| target.alias.is_empty())?;
                Some((var.name.clone(), target.value.clone()))
            })
            .collect();
        for (name, value) in named {
            if let Some(var) = self.vars.get_mut(&name) {
                let longest = self.longest.entry(name).or_default();
                *longest = (*longest).max(value.expose_secret().len());
                var.value = value;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str, alias: &str) -> EnvVar {
        EnvVar {
            alias: alias.into(),
            ..EnvVar::from_platform(name, value, true).unwrap()
        }
    }

    #[test]
    fn aliases_take_value_of_their_target() {
        let mut env = Environment::default();
        env.insert(var("A", "1", ""));
        env.insert(var("B", "", "A"));
        env.insert(var("C", "own", "GONE"));
        env.insert(var("D", "d", "D"));
        let env = env.resolve_aliases();
        assert_eq!(env.get("B").unwrap().value.expose_secret(), "1");
        assert_eq!(env.get("C").unwrap().value.expose_secret(), "own");
        assert_eq!(env.get("D").unwrap().value.expose_secret(), "d");
    }

    #[test]
    fn value_uncovered_by_removal_counts_for_limits() {
        let long = "x".repeat(200_000);
        let mut aliased = Environment::default();
        aliased.insert(var("A", "1", ""));
        aliased.insert(var("B", &long, "A"));
        let mut covered = Environment::default();
        covered.insert(var("B", &long, ""));
        covered.insert_bound(var("B", "1", ""));
        for env in [aliased.resolve_aliases(), covered.resolve_aliases()] {
            assert_eq!(env.get("B").unwrap().value.expose_secret(), "1");
            assert!(env.check_size().is_ok());
            let refused = env.check_stays_fit().unwrap_err();
            assert!(refused.message().contains("variable B has 196 KiB"), "{refused}");
            assert!(env.most_bytes() > 200_000);
        }
    }
}
