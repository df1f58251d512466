//! The parts of the actions of templates.

use serde_json::{Number, Value};

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// Builds the error about a place in a template.
pub(super) fn error_at(source: &str, offset: usize, why: &str) -> Error {
    let before = &source[..source.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::invalid(format!(
        "The body is no valid template at line {line}, column {column}: {why}."
    ))
}

/// A part of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TemplateToken {
    Word(String),
    Path {
        is_absolute: bool,
        names: Vec<String>,
    },
    Constant(Value),
    Pipe,
    OpenParenthesis,
    CloseParenthesis,
    /// `}}`, or ` -}}`, which removes the white space after it.
    Close {
        trims: bool,
    },
}

/// Reads the parts of a template, from its beginning on.
pub(super) struct TokenReader<'a> {
    pub(super) source: &'a str,
    /// Bytes that were read.
    pub(super) at: usize,
}

impl TokenReader<'_> {
    pub(super) fn fail<T>(&self, offset: usize, why: &str) -> Result<T, Error> {
        Err(error_at(self.source, offset, why))
    }

    pub(super) fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    pub(super) fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Reads the next part of an action, and its offset.
    pub(super) fn next_token(&mut self) -> Result<(TemplateToken, usize), Error> {
        let had_space = self.rest().starts_with(char::is_whitespace);
        self.skip_spaces();
        let offset = self.at;
        let rest = self.rest();
        let (token, length) = if rest.starts_with("}}") {
            (TemplateToken::Close { trims: false }, 2)
        } else if had_space && rest.starts_with("-}}") {
            (TemplateToken::Close { trims: true }, 3)
        } else {
            match rest.chars().next() {
                None => return self.fail(offset, "an action is not closed by }}"),
                Some('|') => (TemplateToken::Pipe, 1),
                Some('(') => (TemplateToken::OpenParenthesis, 1),
                Some(')') => (TemplateToken::CloseParenthesis, 1),
                Some('.' | '$') => self.read_path(offset)?,
                Some('"' | '`') => self.read_string(offset)?,
                Some('0'..='9' | '-' | '+') => self.read_number(offset)?,
                Some(c) if c.is_alphabetic() || c == '_' => read_word(rest),
                Some(c) => {
                    let c = quote_excerpt(&c.to_string());
                    return self.fail(offset, &format!("{c:?} has no meaning here"));
                }
            }
        };
        self.at += length;
        Ok((token, offset))
    }

    fn read_path(&self, offset: usize) -> Result<(TemplateToken, usize), Error> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || "._$".contains(c)))
            .unwrap_or(rest.len());
        let path = &rest[..length];
        let (is_absolute, fields) = match path.strip_prefix('$') {
            Some(fields) => (true, fields),
            None => (false, path),
        };
        let names: Vec<String> = match fields {
            "" => Vec::new(),
            "." if !is_absolute => Vec::new(),
            _ => fields.split('.').skip(1).map(str::to_owned).collect(),
        };
        let is_valid = (fields.is_empty() || fields.starts_with('.'))
            && names.iter().all(|name| !name.is_empty() && !name.contains('$'));
        match is_valid {
            true => Ok((TemplateToken::Path { is_absolute, names }, length)),
            false => self.fail(
                offset,
                "there are no variables, and each dot needs the name of a field",
            ),
        }
    }

    fn read_string(&self, offset: usize) -> Result<(TemplateToken, usize), Error> {
        let rest = self.rest();
        let quote = if rest.starts_with('`') { '`' } else { '"' };
        let mut is_escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let is_end = *c == quote && !is_escaped;
            is_escaped = quote == '"' && *c == '\\' && !is_escaped;
            is_end
        });
        let Some((end, _)) = end else {
            return self.fail(offset, "a string is not closed");
        };
        let value = match quote {
            '`' => Some(Value::String(rest[1..end].to_owned())),
            // The common escapes are those of JSON.
            _ => serde_json::from_str(&rest[..=end]).ok(),
        };
        match value {
            Some(value) => Ok((TemplateToken::Constant(value), end + 1)),
            None => self.fail(offset, "a string has an unknown escape or a line end"),
        }
    }

    fn read_number(&self, offset: usize) -> Result<(TemplateToken, usize), Error> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
            .unwrap_or(rest.len());
        let written = &rest[..length];
        let whole = written.parse::<i64>().ok().map(Number::from);
        let number = whole.or_else(|| written.parse().ok().and_then(Number::from_f64));
        match number {
            Some(number) => Ok((TemplateToken::Constant(Value::Number(number)), length)),
            None => self.fail(offset, "this is not a number"),
        }
    }
}

fn read_word(rest: &str) -> (TemplateToken, usize) {
    let length = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(rest.len());
    let token = match &rest[..length] {
        "true" => TemplateToken::Constant(Value::Bool(true)),
        "false" => TemplateToken::Constant(Value::Bool(false)),
        "nil" => TemplateToken::Constant(Value::Null),
        word => TemplateToken::Word(word.to_owned()),
    };
    (token, length)
}
