//! Numbers, times and booleans among the parameters, which come as such in JSON and as strings in forms.

use std::str::FromStr;

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Number, Value};

use crate::kernel::error::Error;
use crate::web::params::Params;

impl Params {
    /// Returns an integer, sent as a number or as a string; `None` if absent or empty.
    pub fn get_integer(&self, key: &str) -> Result<Option<i64>, Error> {
        self.parse_number(key, "a whole number", Number::as_i64)
    }

    /// Returns a number, sent as a number or as a string; `None` if absent or empty.
    pub fn get_number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.parse_number(key, "a number", Number::as_f64)
    }

    fn parse_number<T: FromStr>(
        &self,
        key: &str,
        rule: &str,
        from_json: fn(&Number) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let wrong = || Error::invalid(format!("{key} must be {rule}."));
        if let Some(Value::Number(number)) = self.find_value(key) {
            return from_json(number).ok_or_else(wrong).map(Some);
        }
        match self.get_string(key).map_err(|_| wrong())? {
            None => Ok(None),
            Some(text) => text.trim().parse().map_err(|_| wrong()).map(Some),
        }
    }

    /// Returns a time, in RFC 3339; `None` if absent, empty, or the zero time of clients. Errors: `Invalid`,
    /// naming the field.
    pub fn get_time(&self, key: &str) -> Result<Option<DateTime<Utc>>, Error> {
        let Some(text) = self.get_string(key)? else {
            return Ok(None);
        };
        let time = DateTime::parse_from_rfc3339(&text)
            .map_err(|_| Error::invalid(format!("{key} must be a time such as 2026-03-10T14:00:00Z.")))?;
        Ok(Some(time.with_timezone(&Utc)).filter(|time| time.year() > 1))
    }

    /// Returns a boolean; false if absent or empty.
    pub fn get_bool(&self, key: &str) -> Result<bool, Error> {
        let wrong = || Error::invalid(format!("{key} must be true or false."));
        match self.find_value(key) {
            Some(Value::Bool(yes)) => Ok(*yes),
            _ => match self.get_string(key).map_err(|_| wrong())?.as_deref() {
                None | Some("false" | "0" | "f" | "no" | "off") => Ok(false),
                Some("true" | "1" | "t" | "yes" | "on") => Ok(true),
                Some(_) => Err(wrong()),
            },
        }
    }

    /// Returns a boolean; `None` if absent, null or empty.
    pub fn get_optional_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.find_value(key) {
            None => Ok(None),
            Some(value) if value == "" => Ok(None),
            Some(_) => self.get_bool(key).map(Some),
        }
    }
}
