//! Templates of bodies: a subset of Go's `text/template`, with the event as data.
//!
//! * `{{.Kind.Name}}` a field, `{{.}}` the whole value, `{{$.Error}}` a field of the event within `range` and
//!   `with`; `{{- x -}}` removes the white space before and after; `{{/* a comment */}}`.
//! * `{{if x}} … {{else if y}} … {{else}} … {{end}}`, `{{range x}} … {{else}} … {{end}}`,
//!   `{{with x}} … {{else}} … {{end}}`.
//! * The functions `eq`, `ne`, `and`, `or`, `not`, `len`, `js`, and `json`, which Go does not have: it quotes a
//!   value as JSON. Pipes (`{{.Error | js}}`), parentheses, strings, numbers, `true`, `false` and `nil`.
//!
//! There are no variables, calls of other functions, or nested templates. A template is parsed when the webhook
//! is set; time and output are bounded.

mod parse;
mod render;
mod tokens;

use serde_json::Value;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// The maximum size of a template.
const MAX_TEMPLATE_BYTES: usize = 16 * 1024;
/// How deep blocks and parentheses may be nested.
const MAX_DEPTH: usize = 16;

/// A parsed template.
#[derive(Debug)]
pub(super) struct BodyTemplate {
    source: String,
    nodes: Vec<TemplateNode>,
}

#[derive(Debug)]
enum TemplateNode {
    Literal(String),
    Output(TemplatePipeline),
    If {
        condition: TemplatePipeline,
        body: Vec<TemplateNode>,
        otherwise: Vec<TemplateNode>,
    },
    With {
        value: TemplatePipeline,
        body: Vec<TemplateNode>,
        otherwise: Vec<TemplateNode>,
    },
    Range {
        list: TemplatePipeline,
        body: Vec<TemplateNode>,
        otherwise: Vec<TemplateNode>,
    },
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Debug)]
struct TemplatePipeline(Vec<TemplateCommand>);

/// A function with its arguments, or one operand.
#[derive(Debug)]
struct TemplateCommand {
    function: Option<TemplateFunction>,
    operands: Vec<TemplateOperand>,
}

#[derive(Debug)]
enum TemplateOperand {
    Constant(Value),
    Path(FieldPath),
    Group(TemplatePipeline),
}

/// The path of a field.
#[derive(Debug)]
struct FieldPath {
    /// It begins at the event, not at the current value.
    is_absolute: bool,
    names: Vec<String>,
    /// Where it is in the source.
    offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TemplateFunction {
    Equal,
    NotEqual,
    And,
    Or,
    Not,
    Length,
    JavaScript,
    Json,
}

impl TemplateFunction {
    const ALL: [(&'static str, TemplateFunction); 8] = [
        ("eq", TemplateFunction::Equal),
        ("ne", TemplateFunction::NotEqual),
        ("and", TemplateFunction::And),
        ("or", TemplateFunction::Or),
        ("not", TemplateFunction::Not),
        ("len", TemplateFunction::Length),
        ("js", TemplateFunction::JavaScript),
        ("json", TemplateFunction::Json),
    ];

    /// Returns whether it takes so many arguments.
    fn takes(self, count: usize) -> bool {
        match self {
            TemplateFunction::Equal => count >= 2,
            TemplateFunction::NotEqual => count == 2,
            TemplateFunction::And | TemplateFunction::Or => count >= 1,
            TemplateFunction::Not
            | TemplateFunction::Length
            | TemplateFunction::JavaScript
            | TemplateFunction::Json => count == 1,
        }
    }
}

impl BodyTemplate {
    /// Parses a template. Errors: `Invalid`, with line and column.
    pub(super) fn parse(source: &str) -> Result<Self, Error> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::invalid(format!(
                "The body is longer than {MAX_TEMPLATE_BYTES} bytes."
            )));
        }
        Ok(Self {
            source: source.to_owned(),
            nodes: parse::parse_nodes(source)?,
        })
    }

    /// Renders the template with an event. Errors: `Invalid` if the result is too large.
    pub(super) fn render(&self, event: &Value) -> Result<String, Error> {
        render::render_nodes(&self.nodes, event)
    }

    /// Checks that the fields exist that the template names, as far as that is known before it is rendered: not
    /// within `range` and `with`. Errors: `Invalid`, with line and column.
    pub(super) fn check_fields(&self, sample: &Value) -> Result<(), Error> {
        self.check_nodes(&self.nodes, sample, true)
    }

    fn check_nodes(&self, nodes: &[TemplateNode], sample: &Value, at_root: bool) -> Result<(), Error> {
        for node in nodes {
            let (pipeline, body, otherwise, keeps_root) = match node {
                TemplateNode::Literal(_) => continue,
                TemplateNode::Output(pipeline) => {
                    self.check_pipeline(pipeline, sample, at_root)?;
                    continue;
                }
                TemplateNode::If {
                    condition,
                    body,
                    otherwise,
                } => (condition, body, otherwise, at_root),
                TemplateNode::With {
                    value: pipeline,
                    body,
                    otherwise,
                }
                | TemplateNode::Range {
                    list: pipeline,
                    body,
                    otherwise,
                } => (pipeline, body, otherwise, false),
            };
            self.check_pipeline(pipeline, sample, at_root)?;
            self.check_nodes(body, sample, keeps_root)?;
            self.check_nodes(otherwise, sample, at_root)?;
        }
        Ok(())
    }

    fn check_pipeline(
        &self,
        pipeline: &TemplatePipeline,
        sample: &Value,
        at_root: bool,
    ) -> Result<(), Error> {
        for operand in pipeline.0.iter().flat_map(|command| &command.operands) {
            match operand {
                TemplateOperand::Constant(_) => {}
                TemplateOperand::Group(group) => self.check_pipeline(group, sample, at_root)?,
                TemplateOperand::Path(path) if at_root || path.is_absolute => {
                    self.check_path(path, sample)?
                }
                TemplateOperand::Path(_) => {}
            }
        }
        Ok(())
    }

    fn check_path(&self, path: &FieldPath, sample: &Value) -> Result<(), Error> {
        let mut value = sample;
        for name in &path.names {
            value = match value {
                Value::Null => return Ok(()),
                Value::Object(fields) if fields.contains_key(name) => &fields[name],
                _ => {
                    let why = format!("there is no field {:?}", quote_excerpt(name));
                    return Err(tokens::error_at(&self.source, path.offset, &why));
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
