//! The constraints of pools: what they allow or deny, by field.

use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::pools::store;

/// The maximum number of constraints.
const MAX_CONSTRAINTS: i64 = 1000;
/// The maximum number of names of a constraint, and the maximum length of one in bytes.
const MAX_NAMES: usize = 1000;
const MAX_NAME: usize = 255;

/// What a constraint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstraintField {
    Team,
    Router,
    Service,
    Plan,
    VolumePlan,
    CertIssuer,
}

impl ConstraintField {
    const ALL: [(ConstraintField, &'static str, &'static str); 6] = [
        (ConstraintField::Team, "team", "team"),
        (ConstraintField::Service, "service", "service"),
        (ConstraintField::Router, "router", "router"),
        (ConstraintField::Plan, "plan", "plan"),
        (ConstraintField::VolumePlan, "volume-plan", "volume plan"),
        (ConstraintField::CertIssuer, "cert-issuer", "certificate issuer"),
    ];

    /// Parses the word of the API. Errors: `Invalid`, with the words that there are.
    pub(super) fn parse(word: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == word);
        found.map(|(field, ..)| *field).ok_or_else(|| {
            Error::invalid(format!(
                "{:?} is not a field of a constraint: use one of {}.",
                quote_excerpt(word),
                Self::ALL.map(|(_, word, _)| word).join(", ")
            ))
        })
    }

    fn words(self) -> (&'static str, &'static str) {
        let found = Self::ALL.iter().find(|(field, ..)| *field == self);
        found.map_or(("", ""), |(_, word, noun)| (*word, *noun))
    }

    /// Returns the word of the API, which the database has too.
    pub fn as_str(self) -> &'static str {
        self.words().0
    }

    /// Returns the noun for sentences.
    pub(super) fn noun(self) -> &'static str {
        self.words().1
    }
}

/// An expression for the names of pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolExpression(String);

impl PoolExpression {
    /// Parses an expression. Errors: `Invalid`, with the rule.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
        match (1..=100).contains(&text.len()) && text.chars().all(known) {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::invalid(format!(
                "{:?} is not an expression for pools: use the name of a pool, in which * stands for any characters.",
                quote_excerpt(text)
            ))),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolConstraint {
    pub(super) pool_expr: String,
    pub(super) field: String,
    pub(super) names: Vec<String>,
    pub(super) is_denylist: bool,
}

/// A request to set a constraint, or to append names to it.
#[derive(Clone, Debug)]
pub(super) struct SetConstraint {
    pub(super) expression: PoolExpression,
    pub(super) field: ConstraintField,
    /// None: the constraint is removed.
    pub(super) names: Vec<String>,
    pub(super) is_denylist: bool,
    pub(super) append: bool,
}

/// Returns all constraints. Errors: `Forbidden`.
pub(super) async fn list_constraints(
    core: &Core,
    call: &RequestContext,
) -> Result<Vec<PoolConstraint>, Error> {
    call.authorize(Permission::POOL_READ_CONSTRAINTS, &[])?;
    Ok(store::list_constraints(&core.db).await?)
}

/// Sets a constraint, appends to it, or removes it when there are no names. Errors: `Forbidden`, `Invalid`,
/// `Conflict` for denied names that are to be appended to allowed ones.
pub(super) async fn set_constraint(
    core: &Core,
    call: &RequestContext,
    request: &SetConstraint,
) -> Result<(), Error> {
    call.authorize(Permission::POOL_UPDATE_CONSTRAINTS_SET, &[])?;
    check_names(&request.names)?;
    if request.append && request.names.is_empty() {
        return Err(Error::invalid(
            "There is nothing to append: provide at least one value.",
        ));
    }
    db::retry_transaction(|| set_in_transaction(core, call, request)).await
}

async fn set_in_transaction(
    core: &Core,
    call: &RequestContext,
    request: &SetConstraint,
) -> Result<(), Error> {
    let (expression, field) = (request.expression.as_str(), request.field.as_str());
    let mut tx = core.db.begin().await?;
    let data = json!({
        "poolExpr": expression, "field": field, "values": request.names,
        "blacklist": request.is_denylist, "append": request.append,
    });
    let event = NewEvent::new(
        EventTarget::new(EventTargetKind::Pool, expression),
        Permission::POOL_UPDATE_CONSTRAINTS_SET,
        Vec::new(),
        data,
    );
    events::record_event(&mut tx, call, &event).await?;
    if request.names.is_empty() {
        store::delete_constraint(&mut tx, expression, field).await?;
    } else if request.append {
        append_names(&mut tx, request).await?;
    } else {
        store::upsert_constraint(&mut tx, expression, field, &request.names, request.is_denylist).await?;
    }
    if store::count_constraints(&mut *tx).await? > MAX_CONSTRAINTS {
        return Err(Error::invalid(format!(
            "There are at most {MAX_CONSTRAINTS} constraints: remove some, or use expressions for several pools."
        )));
    }
    tx.commit().await?;
    Ok(())
}

async fn append_names(tx: &mut sqlx::PgConnection, request: &SetConstraint) -> Result<(), Error> {
    let (expression, field) = (request.expression.as_str(), request.field.as_str());
    let after =
        store::append_to_constraint(tx, expression, field, &request.names, request.is_denylist).await?;
    if request.is_denylist && !after.is_denylist {
        return Err(Error::conflict(
            "This constraint lists what is allowed, so denied names cannot be appended to it: set it anew.",
        ));
    }
    check_names(&after.names)
}

/// Checks the names of a constraint. Errors: `Invalid`.
fn check_names(names: &[String]) -> Result<(), Error> {
    let fits = |name: &String| name.len() <= MAX_NAME && !name.contains(char::is_control);
    match names.len() <= MAX_NAMES && names.iter().all(fits) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "A constraint has at most {MAX_NAMES} values of at most {MAX_NAME} bytes, without control characters."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_word_that_parses_to_it() {
        for (field, word, _) in ConstraintField::ALL {
            assert_eq!(field.as_str(), word);
            assert_eq!(ConstraintField::parse(word).unwrap(), field);
        }
        let error = ConstraintField::parse("colour").unwrap_err();
        assert!(error.message().contains("team, service, router"), "{error}");
    }

    #[test]
    fn pool_expression_is_a_name_with_asterisks() {
        for good in ["local", "*", "dev_*", "*-prod", "a*b*c"] {
            assert_eq!(PoolExpression::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "%", "a\n", &"a".repeat(101)] {
            assert!(PoolExpression::parse(bad).is_err(), "{bad}");
        }
    }
}
