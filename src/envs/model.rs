//! Variables and their sources.

use std::collections::BTreeMap;

use crate::kernel::names::EnvName;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

/// Who gave a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A user, through the API; maybe in the name of a tool that manages it.
    User { managed_by: String },
    /// A bound instance.
    Service { service: String, instance: String },
    /// Tancho.
    Own,
}

impl Source {
    /// As the API says it: `managedBy`.
    pub fn managed_by(&self) -> String {
        match self {
            Source::User { managed_by } => managed_by.clone(),
            Source::Service { service, instance } => format!("{service}/{instance}"),
            Source::Own => "tsuru".into(),
        }
    }
}

/// A variable.
#[derive(Clone, Debug)]
pub struct Var {
    pub name: EnvName,
    pub value: Secret,
    pub public: bool,
    /// Name of the variable whose value this one takes.
    pub alias: String,
    pub source: Source,
}

impl Var {
    /// A variable of Tancho's own.
    pub(super) fn own(name: &str, value: &str, public: bool) -> Result<Self, Problem> {
        Ok(Self {
            name: EnvName::parse(name)?,
            value: Secret::new(value),
            public,
            alias: String::new(),
            source: Source::Own,
        })
    }
}

/// Variables by name.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<EnvName, Var>);

impl Environment {
    /// Adds a variable; it covers one of the same name.
    pub fn put(&mut self, var: Var) {
        self.0.insert(var.name.clone(), var);
    }

    /// A variable by name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.0.values().find(|var| var.name.as_str() == name)
    }

    /// In the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = &Var> {
        self.0.values()
    }

    /// As name and value, for a sealed snapshot.
    pub fn to_map(&self) -> BTreeMap<&str, &str> {
        self.0
            .values()
            .map(|var| (var.name.as_str(), var.value.expose()))
            .collect()
    }

    /// Gives variables with an alias the value of the one they name. One level: an alias of an alias keeps
    /// what it was set to, so there is no ring to go round in.
    pub(super) fn resolve_aliases(mut self) -> Self {
        let named: Vec<(EnvName, Secret)> = self
            .0
            .values()
            .filter(|var| !var.alias.is_empty())
            .filter_map(|var| {
                let target = self.get(&var.alias).filter(|target| target.alias.is_empty())?;
                Some((var.name.clone(), target.value.clone()))
            })
            .collect();
        for (name, value) in named {
            if let Some(var) = self.0.get_mut(&name) {
                var.value = value;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str, alias: &str) -> Var {
        Var {
            alias: alias.into(),
            ..Var::own(name, value, true).unwrap()
        }
    }

    #[test]
    fn aliases_take_the_value_of_what_they_name() {
        let mut env = Environment::default();
        env.put(var("A", "1", ""));
        env.put(var("B", "", "A"));
        env.put(var("C", "own", "GONE"));
        env.put(var("D", "d", "D"));
        let env = env.resolve_aliases();
        assert_eq!(env.get("B").unwrap().value.expose(), "1");
        assert_eq!(env.get("C").unwrap().value.expose(), "own");
        assert_eq!(env.get("D").unwrap().value.expose(), "d");
    }
}
