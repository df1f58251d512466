//! Renders templates, within bounds of time and output.

use serde_json::Value;

use crate::kernel::error::Error;
use crate::webhooks::template::{
    FieldPath, TemplateCommand, TemplateFunction, TemplateNode, TemplateOperand, TemplatePipeline,
};

/// The maximum size of the output.
pub(super) const MAX_OUTPUT_BYTES: usize = 256 * 1024;
/// The maximum number of steps: each node, and every 32 bytes of a value that is copied.
const MAX_STEPS: usize = 100_000;
const BYTES_PER_STEP: usize = 32;
/// What Go writes for a field that is not there.
const NO_VALUE: &str = "<no value>";

/// Renders nodes with an event. Errors: `Invalid` if the output is too large, or takes too long.
pub(super) fn render_nodes(nodes: &[TemplateNode], event: &Value) -> Result<String, Error> {
    let mut renderer = TemplateRenderer {
        event,
        output: String::new(),
        steps: 0,
    };
    renderer.render_block(nodes, event)?;
    Ok(renderer.output)
}

struct TemplateRenderer<'a> {
    event: &'a Value,
    output: String,
    steps: usize,
}

impl TemplateRenderer<'_> {
    fn render_block(&mut self, nodes: &[TemplateNode], current: &Value) -> Result<(), Error> {
        for node in nodes {
            self.steps += 1;
            match node {
                TemplateNode::Literal(literal) => self.output.push_str(literal),
                TemplateNode::Output(pipeline) => {
                    let value = self.evaluate_pipeline(pipeline, current)?;
                    self.output.push_str(&display_value(value.as_ref()));
                }
                TemplateNode::If {
                    condition,
                    body,
                    otherwise,
                } => {
                    let value = self.evaluate_pipeline(condition, current)?;
                    let branch = if is_true(value.as_ref()) { body } else { otherwise };
                    self.render_block(branch, current)?;
                }
                TemplateNode::With {
                    value,
                    body,
                    otherwise,
                } => match self.evaluate_pipeline(value, current)? {
                    Some(value) if is_true(Some(&value)) => self.render_block(body, &value)?,
                    _ => self.render_block(otherwise, current)?,
                },
                TemplateNode::Range {
                    list,
                    body,
                    otherwise,
                } => {
                    let items = list_items(self.evaluate_pipeline(list, current)?);
                    for item in &items {
                        self.render_block(body, item)?;
                    }
                    if items.is_empty() {
                        self.render_block(otherwise, current)?;
                    }
                }
            }
            self.check_limits()?;
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Error> {
        match self.output.len() > MAX_OUTPUT_BYTES || self.steps > MAX_STEPS {
            true => Err(Error::invalid(format!(
                "The template makes a body of more than {MAX_OUTPUT_BYTES} bytes, or takes too long."
            ))),
            false => Ok(()),
        }
    }

    /// Returns the value of a pipeline; `None` for a field that is not there.
    fn evaluate_pipeline(
        &mut self,
        pipeline: &TemplatePipeline,
        current: &Value,
    ) -> Result<Option<Value>, Error> {
        let mut result = None;
        for (at, command) in pipeline.0.iter().enumerate() {
            let piped = (at > 0).then(|| result.take());
            result = self.evaluate_command(command, piped, current)?;
        }
        Ok(result)
    }

    fn evaluate_command(
        &mut self,
        command: &TemplateCommand,
        piped: Option<Option<Value>>,
        current: &Value,
    ) -> Result<Option<Value>, Error> {
        let mut arguments = Vec::with_capacity(command.operands.len() + 1);
        for operand in &command.operands {
            arguments.push(match operand {
                TemplateOperand::Constant(value) => Some(self.copy_value(value)?),
                TemplateOperand::Path(path) => self.copy_field(path, current)?,
                TemplateOperand::Group(group) => self.evaluate_pipeline(group, current)?,
            });
        }
        arguments.extend(piped);
        Ok(match command.function {
            None => arguments.pop().flatten(),
            Some(function) => call_function(function, arguments),
        })
    }

    fn copy_field(&mut self, path: &FieldPath, current: &Value) -> Result<Option<Value>, Error> {
        let first = if path.is_absolute { self.event } else { current };
        let found = path.names.iter().try_fold(first, |value, name| value.get(name));
        found.map(|value| self.copy_value(value)).transpose()
    }

    fn copy_value(&mut self, value: &Value) -> Result<Value, Error> {
        self.steps += 1 + value_bytes(value) / BYTES_PER_STEP;
        self.check_limits()?;
        Ok(value.clone())
    }
}

/// Returns about how much memory a value takes.
fn value_bytes(value: &Value) -> usize {
    let inner = match value {
        Value::String(string) => string.len(),
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| name.len() + value_bytes(field))
            .sum(),
        _ => 0,
    };
    inner + BYTES_PER_STEP
}

fn call_function(function: TemplateFunction, mut arguments: Vec<Option<Value>>) -> Option<Value> {
    match function {
        TemplateFunction::Equal => {
            let first = arguments.first();
            Some(arguments.iter().skip(1).any(|other| Some(other) == first).into())
        }
        TemplateFunction::NotEqual => Some((arguments.first() != arguments.last()).into()),
        // As in Go: the first value that decides, or else the last.
        TemplateFunction::And => take_first(arguments, false),
        TemplateFunction::Or => take_first(arguments, true),
        TemplateFunction::Not => Some((!is_true(arguments.pop().flatten().as_ref())).into()),
        TemplateFunction::Length => Some(count_items(arguments.pop().flatten().as_ref()).into()),
        TemplateFunction::JavaScript => {
            let value = display_value(arguments.pop().flatten().as_ref()).into_owned();
            Some(Value::String(escape_javascript(&value)))
        }
        TemplateFunction::Json => Some(Value::String(
            arguments.pop().flatten().unwrap_or_default().to_string(),
        )),
    }
}

fn take_first(arguments: Vec<Option<Value>>, wanted: bool) -> Option<Value> {
    let last = arguments.len().saturating_sub(1);
    let found = arguments
        .iter()
        .position(|value| is_true(value.as_ref()) == wanted)
        .unwrap_or(last);
    arguments.into_iter().nth(found).flatten()
}

/// Returns whether a value counts as true, as in Go: it is not empty or zero.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is)) => *is,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(string)) => !string.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
    }
}

fn count_items(value: Option<&Value>) -> usize {
    match value {
        Some(Value::String(string)) => string.len(),
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(fields)) => fields.len(),
        _ => 0,
    }
}

/// Returns what `range` goes through: the items of a list, or the values of an object.
fn list_items(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        Some(Value::Object(fields)) => fields.into_values().collect(),
        _ => Vec::new(),
    }
}

/// Returns a value as it is written: strings as they are, lists and objects as JSON.
fn display_value(value: Option<&Value>) -> std::borrow::Cow<'_, str> {
    match value {
        None | Some(Value::Null) => NO_VALUE.into(),
        Some(Value::String(string)) => string.into(),
        Some(other) => other.to_string().into(),
    }
}

/// Escapes a string for a string of JavaScript, which is one of JSON as well.
fn escape_javascript(string: &str) -> String {
    let mut escaped = String::with_capacity(string.len());
    for c in string.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\'' | '<' | '>' | '&' | '=' => escaped.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                escaped.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => escaped.push(c),
        }
    }
    escaped
}
