//! The functions of `src/`, by module and name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, ImplItem, Item, ItemFn, Lit, Meta, UseTree};

/// A source file.
pub(crate) struct SourceModule {
    functions: BTreeMap<String, ItemFn>,
    constants: BTreeMap<String, Expr>,
    /// What `use` brings: the name here, and the path.
    imports: BTreeMap<String, Vec<String>>,
}

/// The sources of the crate.
pub(crate) struct SourceIndex {
    modules: BTreeMap<String, SourceModule>,
    /// The methods of each type, by the type's bare name.
    methods: BTreeMap<String, Vec<String>>,
}

impl SourceIndex {
    /// Reads all files below `src/`.
    pub(crate) fn read_all() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut index = Self {
            modules: BTreeMap::new(),
            methods: BTreeMap::new(),
        };
        for file in list_files(&root) {
            let parsed = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
            index.add_file(module_name(&root, &file), parsed);
        }
        index
    }

    fn add_file(&mut self, name: String, file: syn::File) {
        let mut module = SourceModule {
            functions: BTreeMap::new(),
            constants: BTreeMap::new(),
            imports: BTreeMap::new(),
        };
        for item in file.items {
            match item {
                Item::Fn(function) => {
                    module.functions.insert(function.sig.ident.to_string(), function);
                }
                Item::Const(constant) => {
                    module
                        .constants
                        .insert(constant.ident.to_string(), *constant.expr);
                }
                Item::Use(import) => add_imports(&mut module.imports, &import.tree, &mut Vec::new()),
                Item::Impl(block) => {
                    if let syn::Type::Path(path) = block.self_ty.as_ref() {
                        let name = path.path.segments.last().unwrap().ident.to_string();
                        let methods = self.methods.entry(name).or_default();
                        methods.extend(block.items.iter().filter_map(|item| match item {
                            ImplItem::Fn(method) => Some(method.sig.ident.to_string()),
                            _ => None,
                        }));
                    }
                }
                _ => {}
            }
        }
        self.modules.insert(name, module);
    }

    /// Returns the names of the methods of a type.
    pub(crate) fn method_names(&self, type_name: &str) -> Vec<String> {
        self.methods.get(type_name).cloned().unwrap_or_default()
    }

    /// Returns a function by its whole path, with its module.
    pub(crate) fn find_function(&self, path: &str) -> Option<(&str, &ItemFn)> {
        let (module, name) = path.rsplit_once("::")?;
        let (module, found) = self.modules.get_key_value(module)?;
        Some((module, found.functions.get(name)?))
    }

    /// Returns the function that a call names, as seen from a module.
    pub(crate) fn resolve_call(&self, module: &str, segments: &[String]) -> Option<(&str, &ItemFn)> {
        let from = self.modules.get(module)?;
        self.find_function(&self.resolve_path(from, module, segments)?)
    }

    /// Returns the value of a constant that a path names, as seen from a module.
    pub(crate) fn resolve_constant(&self, module: &str, segments: &[String]) -> Option<(&str, &Expr)> {
        let from = self.modules.get(module)?;
        let path = self.resolve_path(from, module, segments)?;
        let (module, name) = path.rsplit_once("::")?;
        let (module, found) = self.modules.get_key_value(module)?;
        Some((module, found.constants.get(name)?))
    }

    fn resolve_path(&self, from: &SourceModule, module: &str, segments: &[String]) -> Option<String> {
        let name = &segments[0];
        if segments.len() == 1 && (from.functions.contains_key(name) || from.constants.contains_key(name)) {
            return Some(format!("{module}::{name}"));
        }
        let mut path = match from.imports.get(&segments[0]) {
            Some(import) => [import.as_slice(), &segments[1..]].concat(),
            None => segments.to_vec(),
        };
        match path[0].as_str() {
            "crate" => path[0] = "tancho".into(),
            "self" => path[0] = module.into(),
            "super" => path[0] = module.rsplit_once("::")?.0.into(),
            _ => return None,
        }
        Some(path.join("::"))
    }

    /// Returns the documentation of a function in one line.
    pub(crate) fn find_summary(&self, path: &str) -> Option<String> {
        let (_, function) = self.find_function(path)?;
        let lines: Vec<String> = function.attrs.iter().filter_map(doc_line).collect();
        let text = lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(text)
    }
}

fn doc_line(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        Expr::Lit(literal) if pair.path.is_ident("doc") => match &literal.lit {
            Lit::Str(text) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    }
}

fn add_imports(imports: &mut BTreeMap<String, Vec<String>>, tree: &UseTree, path: &mut Vec<String>) {
    match tree {
        UseTree::Path(part) => {
            path.push(part.ident.to_string());
            add_imports(imports, &part.tree, path);
            path.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            imports.insert(path.last().unwrap().clone(), path.clone());
        }
        UseTree::Name(name) => {
            imports.insert(
                name.ident.to_string(),
                [path.as_slice(), &[name.ident.to_string()]].concat(),
            );
        }
        UseTree::Rename(rename) => {
            imports.insert(
                rename.rename.to_string(),
                [path.as_slice(), &[rename.ident.to_string()]].concat(),
            );
        }
        UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|tree| add_imports(imports, tree, path)),
        UseTree::Glob(_) => {}
    }
}

fn list_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(list_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    files
}

fn module_name(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).unwrap().with_extension("");
    let mut parts = vec!["tancho".to_owned()];
    parts.extend(relative.iter().map(|part| part.to_str().unwrap().to_owned()));
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts.join("::")
}
