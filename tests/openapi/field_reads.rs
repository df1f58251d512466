//! Finds the fields that a handler reads from its request, by following the values of type `Params` through its source:
//! into the functions of the crate that it calls, into local closures, into nested objects and lists.
//!
//! Handlers are written plainly: names of fields are literals, or parameters of closures that get literals.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value, json};
use syn::{Block, Expr, ExprClosure, ExprForLoop, ExprMethodCall, FnArg, ItemFn, Lit, Pat, Stmt, Type};

use crate::sources::SourceIndex;

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    /// Its presence matters, or it may have any type.
    Any,
    String,
    /// A string, or a number in JSON.
    Scalar,
    Boolean,
    Integer,
    Number,
    Time,
    Strings,
    StringMap,
    Object(RequestFields),
    Objects(RequestFields),
}

/// A field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestField {
    pub(crate) kind: FieldKind,
    pub(crate) required: bool,
}

/// The fields of a request or of an object in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFields {
    pub(crate) properties: BTreeMap<String, RequestField>,
    /// The body may be a list of strings instead.
    pub(crate) may_be_list: bool,
    /// The body may have any fields that are strings.
    pub(crate) may_be_map: bool,
}

/// The methods of `Params` that read a field, and what they read; `None`: see `read_method`.
pub(crate) const GETTERS: &[(&str, Option<FieldKind>)] = &[
    ("get_body_map", None),
    ("get_body_strings", None),
    ("get_bool", Some(FieldKind::Boolean)),
    ("get_integer", Some(FieldKind::Integer)),
    ("get_names", None),
    ("get_number", Some(FieldKind::Number)),
    ("get_object", None),
    ("get_objects", None),
    ("get_optional_bool", Some(FieldKind::Boolean)),
    ("get_scalar", Some(FieldKind::Scalar)),
    ("get_string", Some(FieldKind::String)),
    ("get_string_map", Some(FieldKind::StringMap)),
    ("get_string_or_empty", Some(FieldKind::String)),
    ("get_strings", Some(FieldKind::Strings)),
    ("get_time", Some(FieldKind::Time)),
    ("get_value", Some(FieldKind::Any)),
    ("has_field", Some(FieldKind::Any)),
    ("parse_field", Some(FieldKind::String)),
    ("require_scalar", Some(FieldKind::Scalar)),
    ("require_string", Some(FieldKind::String)),
];

impl RequestFields {
    /// True if nothing is known to be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.properties.is_empty() && !self.may_be_list && !self.may_be_map
    }

    /// The JSON schema.
    pub(crate) fn schema(&self) -> Value {
        let properties: BTreeMap<&String, Value> =
            self.properties.iter().map(|(k, f)| (k, f.schema())).collect();
        let required: Vec<&String> = self
            .properties
            .iter()
            .filter(|(_, f)| f.required)
            .map(|(k, _)| k)
            .collect();
        let mut schema = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if self.may_be_map {
            schema["additionalProperties"] = json!({ "type": "string" });
        }
        match self.may_be_list {
            true => json!({ "oneOf": [schema, { "type": "array", "items": { "type": "string" } }] }),
            false => schema,
        }
    }

    fn add(&mut self, place: &[PathPart], kind: FieldKind, required: bool) {
        let (first, rest) = place.split_first().unwrap();
        let PathPart { name, in_list } = first;
        let empty = match (rest.is_empty(), in_list) {
            (true, _) => kind.clone(),
            (false, false) => FieldKind::Object(RequestFields::default()),
            (false, true) => FieldKind::Objects(RequestFields::default()),
        };
        let field = self.properties.entry(name.clone()).or_insert(RequestField {
            kind: empty,
            required: false,
        });
        if rest.is_empty() {
            field.required |= required;
            let is_weak = |kind: &FieldKind| matches!(kind, FieldKind::Any);
            if is_weak(&field.kind) {
                field.kind = kind;
            }
            return;
        }
        match &mut field.kind {
            FieldKind::Object(inner) | FieldKind::Objects(inner) => inner.add(rest, kind, required),
            weak @ FieldKind::Any => {
                *weak = FieldKind::Object(RequestFields::default());
                self.add(place, kind, required);
            }
            other => panic!("{name} is read as {other:?} and as an object"),
        }
    }
}

impl RequestField {
    /// The JSON schema.
    pub(crate) fn schema(&self) -> Value {
        match &self.kind {
            FieldKind::Any => json!({}),
            FieldKind::String => json!({ "type": "string" }),
            FieldKind::Scalar => json!({ "type": ["string", "number"] }),
            FieldKind::Boolean => json!({ "type": "boolean" }),
            FieldKind::Integer => json!({ "type": "integer", "format": "int64" }),
            FieldKind::Number => json!({ "type": "number" }),
            FieldKind::Time => json!({ "type": "string", "format": "date-time" }),
            FieldKind::Strings => json!({ "type": "array", "items": { "type": "string" } }),
            FieldKind::StringMap => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            FieldKind::Object(fields) => fields.schema(),
            FieldKind::Objects(fields) => json!({ "type": "array", "items": fields.schema() }),
        }
    }
}

/// Returns the fields that a handler reads.
pub(crate) fn read_fields(sources: &SourceIndex, handler: &str) -> RequestFields {
    let (module, function) = sources
        .find_function(handler)
        .unwrap_or_else(|| panic!("{handler} is not found in the sources"));
    let mut reader = FieldReader {
        sources,
        fields: RequestFields::default(),
        conditions: 0,
        depth: 0,
    };
    reader.call_function(module, function, &[]);
    reader.fields
}

#[derive(Clone, Debug)]
struct PathPart {
    name: String,
    in_list: bool,
}

/// What an expression is, as far as it matters here.
#[derive(Clone)]
enum FieldValue {
    Unknown,
    /// The parameters, or an object in them.
    Object(Vec<PathPart>),
    /// A list of objects.
    Objects(Vec<PathPart>),
    /// Strings: each may be the name of a field.
    Names(Vec<String>),
    /// Values side by side, in a tuple or an array.
    Tuple(Vec<FieldValue>),
    Closure(Rc<ExprClosure>, Scope),
    /// A function that is passed by its name.
    Function(Vec<String>),
}

type Scope = BTreeMap<String, FieldValue>;

struct FieldReader<'a> {
    sources: &'a SourceIndex,
    fields: RequestFields,
    /// How many branches enclose the expression; a field that is required in a branch is optional.
    conditions: usize,
    depth: usize,
}

const MAX_DEPTH: usize = 12;

impl FieldReader<'_> {
    fn call_function(&mut self, module: &str, function: &ItemFn, args: &[FieldValue]) -> FieldValue {
        if self.depth >= MAX_DEPTH {
            return FieldValue::Unknown;
        }
        let mut scope = Scope::new();
        for (at, input) in function.sig.inputs.iter().enumerate() {
            let FnArg::Typed(typed) = input else { continue };
            let given = args.get(at).cloned().unwrap_or(FieldValue::Unknown);
            let value = match given {
                FieldValue::Unknown if is_params(&typed.ty) => FieldValue::Object(Vec::new()),
                given => given,
            };
            bind(&mut scope, &typed.pat, value);
        }
        self.depth += 1;
        let result = self.block(module, &mut scope, &function.block);
        self.depth -= 1;
        result
    }

    fn call_closure(
        &mut self,
        module: &str,
        closure: &ExprClosure,
        scope: &Scope,
        args: &[FieldValue],
    ) -> FieldValue {
        if self.depth >= MAX_DEPTH {
            return FieldValue::Unknown;
        }
        let mut scope = scope.clone();
        for (at, input) in closure.inputs.iter().enumerate() {
            bind(
                &mut scope,
                input,
                args.get(at).cloned().unwrap_or(FieldValue::Unknown),
            );
        }
        self.depth += 1;
        let result = self.eval(module, &mut scope, &closure.body);
        self.depth -= 1;
        result
    }

    fn call_value(&mut self, module: &str, callee: &FieldValue, args: &[FieldValue]) -> FieldValue {
        match callee {
            FieldValue::Closure(closure, scope) => self.call_closure(module, closure, scope, args),
            FieldValue::Function(segments) => match self.sources.resolve_call(module, segments) {
                Some((module, function)) => self.call_function(module, function, args),
                None => FieldValue::Unknown,
            },
            _ => FieldValue::Unknown,
        }
    }

    fn block(&mut self, module: &str, scope: &mut Scope, block: &Block) -> FieldValue {
        let mut last = FieldValue::Unknown;
        for statement in &block.stmts {
            last = match statement {
                Stmt::Local(local) => {
                    if let Some(init) = &local.init {
                        let value = self.eval(module, scope, &init.expr);
                        bind(scope, pattern_of(&local.pat), value);
                        if let Some((_, otherwise)) = &init.diverge {
                            self.eval_branch(module, scope, otherwise);
                        }
                    }
                    FieldValue::Unknown
                }
                Stmt::Expr(expr, _) => self.eval(module, scope, expr),
                Stmt::Item(_) | Stmt::Macro(_) => FieldValue::Unknown,
            };
        }
        last
    }

    fn eval_branch(&mut self, module: &str, scope: &Scope, expr: &Expr) -> FieldValue {
        self.conditions += 1;
        let value = self.eval(module, &mut scope.clone(), expr);
        self.conditions -= 1;
        value
    }

    fn eval_all<'e>(
        &mut self,
        module: &str,
        scope: &mut Scope,
        exprs: impl IntoIterator<Item = &'e Expr>,
    ) -> Vec<FieldValue> {
        exprs
            .into_iter()
            .map(|expr| self.eval(module, scope, expr))
            .collect()
    }

    fn eval(&mut self, module: &str, scope: &mut Scope, expr: &Expr) -> FieldValue {
        match expr {
            Expr::Path(path) => {
                let segments: Vec<String> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
                match scope.get(&segments[0]) {
                    Some(value) if segments.len() == 1 => value.clone(),
                    _ => match self.sources.resolve_constant(module, &segments) {
                        Some((module, constant)) => self.eval(module, &mut Scope::new(), constant),
                        None => FieldValue::Function(segments),
                    },
                }
            }
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => FieldValue::Names(vec![text.value()]),
                _ => FieldValue::Unknown,
            },
            Expr::Try(inner) => self.eval(module, scope, &inner.expr),
            Expr::Await(inner) => self.eval(module, scope, &inner.base),
            Expr::Paren(inner) => self.eval(module, scope, &inner.expr),
            Expr::Group(inner) => self.eval(module, scope, &inner.expr),
            Expr::Reference(inner) => self.eval(module, scope, &inner.expr),
            Expr::Unary(inner) => self.eval(module, scope, &inner.expr),
            Expr::Cast(inner) => self.eval(module, scope, &inner.expr),
            Expr::Field(field) => self.eval(module, scope, &field.base),
            Expr::Closure(closure) => FieldValue::Closure(Rc::new(closure.clone()), scope.clone()),
            Expr::Tuple(tuple) => FieldValue::Tuple(self.eval_all(module, scope, &tuple.elems)),
            Expr::Array(array) => FieldValue::Tuple(self.eval_all(module, scope, &array.elems)),
            Expr::MethodCall(call) => self.method_call(module, scope, call),
            Expr::Call(call) => {
                let args = self.eval_all(module, scope, &call.args);
                let callee = self.eval(module, scope, &call.func);
                self.plain_call(module, &callee, args)
            }
            Expr::Block(block) => self.block(module, &mut scope.clone(), &block.block),
            Expr::Async(block) => self.block(module, &mut scope.clone(), &block.block),
            _ => self.eval_control(module, scope, expr),
        }
    }

    fn eval_control(&mut self, module: &str, scope: &mut Scope, expr: &Expr) -> FieldValue {
        match expr {
            Expr::If(choice) => {
                self.eval(module, scope, &choice.cond);
                self.conditions += 1;
                let value = self.block(module, &mut scope.clone(), &choice.then_branch);
                self.conditions -= 1;
                if let Some((_, otherwise)) = &choice.else_branch {
                    self.eval_branch(module, scope, otherwise);
                }
                value
            }
            Expr::Match(choice) => {
                let value = self.eval(module, scope, &choice.expr);
                for arm in &choice.arms {
                    let mut inner = scope.clone();
                    bind(&mut inner, &arm.pat, value.clone());
                    if let Some((_, guard)) = &arm.guard {
                        self.eval_branch(module, &inner, guard);
                    }
                    self.eval_branch(module, &inner, &arm.body);
                }
                FieldValue::Unknown
            }
            Expr::ForLoop(each) => self.for_loop(module, scope, each),
            Expr::While(each) => {
                self.eval(module, scope, &each.cond);
                self.block(module, &mut scope.clone(), &each.body)
            }
            Expr::Let(binding) => {
                let value = self.eval(module, scope, &binding.expr);
                bind(scope, &binding.pat, value);
                FieldValue::Unknown
            }
            Expr::Struct(made) => {
                for field in &made.fields {
                    self.eval(module, scope, &field.expr);
                }
                if let Some(rest) = &made.rest {
                    self.eval(module, scope, rest);
                }
                FieldValue::Unknown
            }
            Expr::Binary(binary) => {
                self.eval(module, scope, &binary.left);
                let lazy = matches!(binary.op, syn::BinOp::And(_) | syn::BinOp::Or(_));
                match lazy {
                    true => self.eval_branch(module, scope, &binary.right),
                    false => self.eval(module, scope, &binary.right),
                };
                FieldValue::Unknown
            }
            Expr::Assign(assign) => self.eval(module, scope, &assign.right),
            Expr::Return(returned) => match &returned.expr {
                Some(expr) => self.eval(module, scope, expr),
                None => FieldValue::Unknown,
            },
            Expr::Index(index) => self.eval(module, scope, &index.expr),
            _ => FieldValue::Unknown,
        }
    }

    fn for_loop(&mut self, module: &str, scope: &mut Scope, each: &ExprForLoop) -> FieldValue {
        let list = self.eval(module, scope, &each.expr);
        let items = match list {
            FieldValue::Tuple(items) => items,
            other => vec![item_of(other)],
        };
        for item in items {
            let mut inner = scope.clone();
            bind(&mut inner, &each.pat, item);
            self.block(module, &mut inner, &each.body);
        }
        FieldValue::Unknown
    }

    fn plain_call(&mut self, module: &str, callee: &FieldValue, args: Vec<FieldValue>) -> FieldValue {
        if let FieldValue::Function(segments) = callee {
            let last = segments.last().map(String::as_str);
            let before = segments.len().checked_sub(2).map(|at| segments[at].as_str());
            match (before, last) {
                (Some("Params"), Some("parse_request")) | (_, Some("read_request")) => {
                    return FieldValue::Object(Vec::new());
                }
                (_, Some("Ok" | "Some" | "Json")) => {
                    return args.into_iter().next().unwrap_or(FieldValue::Unknown);
                }
                _ => {}
            }
        }
        self.call_value(module, callee, &args)
    }

    fn method_call(&mut self, module: &str, scope: &mut Scope, call: &ExprMethodCall) -> FieldValue {
        let receiver = self.eval(module, scope, &call.receiver);
        let args = self.eval_all(module, scope, &call.args);
        let name = call.method.to_string();
        if name == "into_fields" {
            return FieldValue::Object(Vec::new());
        }
        if let FieldValue::Object(place) = &receiver
            && let Some((_, kind)) = GETTERS.iter().find(|(getter, _)| *getter == name)
        {
            return self.read_method(place, &name, kind.as_ref(), args.first());
        }
        let passed: Vec<&FieldValue> = args
            .iter()
            .filter(|arg| matches!(arg, FieldValue::Closure(..) | FieldValue::Function(_)))
            .collect();
        let is_list = matches!(receiver, FieldValue::Objects(_));
        let item = item_of(receiver.clone());
        for callee in &passed {
            // A closure that gets the items of a list is no condition: what it requires, each item has.
            self.conditions += usize::from(!is_list);
            self.call_value(module, callee, std::slice::from_ref(&item));
            self.conditions -= usize::from(!is_list);
        }
        match passed.is_empty() {
            true => receiver,
            false => FieldValue::Unknown,
        }
    }

    fn read_method(
        &mut self,
        place: &[PathPart],
        getter: &str,
        kind: Option<&FieldKind>,
        key: Option<&FieldValue>,
    ) -> FieldValue {
        match getter {
            "get_body_map" => self.fields.may_be_map = true,
            "get_body_strings" => self.fields.may_be_list = true,
            "get_names" => self.fields.may_be_list = true,
            _ => {}
        }
        let Some(FieldValue::Names(names)) = key else {
            return FieldValue::Unknown;
        };
        let required = getter.starts_with("require_") && self.conditions == 0;
        let mut value = FieldValue::Unknown;
        for name in names {
            let at = |in_list: bool| {
                let part = PathPart {
                    name: name.clone(),
                    in_list,
                };
                [place, &[part]].concat()
            };
            let empty = RequestFields::default();
            match getter {
                "get_object" => {
                    self.fields.add(&at(false), FieldKind::Object(empty), false);
                    value = FieldValue::Object(at(false));
                }
                "get_objects" => {
                    self.fields.add(&at(true), FieldKind::Objects(empty), false);
                    value = FieldValue::Objects(at(true));
                }
                "get_names" => self.fields.add(&at(false), FieldKind::Strings, false),
                _ => {
                    let kind = kind.cloned().unwrap_or(FieldKind::Any);
                    self.fields.add(&at(false), kind, required);
                }
            }
        }
        value
    }
}

fn item_of(list: FieldValue) -> FieldValue {
    match list {
        FieldValue::Objects(place) | FieldValue::Object(place) => FieldValue::Object(place),
        FieldValue::Names(names) => FieldValue::Names(names),
        _ => FieldValue::Unknown,
    }
}

fn pattern_of(pattern: &Pat) -> &Pat {
    match pattern {
        Pat::Type(typed) => &typed.pat,
        other => other,
    }
}

fn bind(scope: &mut Scope, pattern: &Pat, value: FieldValue) {
    match pattern_of(pattern) {
        Pat::Ident(name) => {
            scope.insert(name.ident.to_string(), value);
        }
        Pat::Reference(inner) => bind(scope, &inner.pat, value),
        Pat::Tuple(tuple) => {
            let mut values = match value {
                FieldValue::Tuple(values) => values.into_iter(),
                _ => Vec::new().into_iter(),
            };
            for part in &tuple.elems {
                bind(scope, part, values.next().unwrap_or(FieldValue::Unknown));
            }
        }
        Pat::TupleStruct(made) => {
            for part in &made.elems {
                bind(scope, part, value.clone());
            }
        }
        _ => {}
    }
}

fn is_params(ty: &Type) -> bool {
    match ty {
        Type::Reference(inner) => is_params(&inner.elem),
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Params"),
        _ => false,
    }
}
