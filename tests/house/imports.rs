//! Reads the imports between the files of the library. An edge leads to the file that defines an item,
//! through all re-exports.
//!
//! The sources are read as text: `use` declarations, and paths such as `crate::a::b` or `child::item`.
//! Comments and test modules do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::{root, rust_files};

/// The path of a module below the crate, such as `["etcd", "client"]`. The crate itself is empty.
pub type Module = Vec<String>;

/// The imports of all files of the library.
pub struct Imports {
    /// For each module with a file of its own, the modules that it imports from.
    pub edges: BTreeMap<Module, BTreeSet<Module>>,
}

/// The declarations in the text of one file.
struct Source {
    /// The text without comments and test modules.
    code: String,
    /// Full paths by the names under which `pub use` exports them.
    exports: BTreeMap<String, Module>,
}

impl Imports {
    /// Reads the sources of the library.
    pub fn read() -> Self {
        let src = root().join("src");
        let mut sources = BTreeMap::new();
        for path in rust_files(&src) {
            let relative = path.strip_prefix(&src).unwrap().with_extension("");
            let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if module.iter().any(|part| part == "tests") || module == ["main"] {
                continue;
            }
            if module.last().is_some_and(|name| name == "mod") || module == ["lib"] {
                module.pop();
            }
            let code = without_tests(&without_comments(&fs::read_to_string(&path).unwrap()));
            sources.insert(module, Source { code, exports: BTreeMap::new() });
        }
        let modules: BTreeSet<Module> = sources.keys().cloned().collect();
        for (module, source) in &mut sources {
            for declaration in declarations(&source.code).filter(|declaration| declaration.public) {
                for (path, name) in declaration.paths() {
                    if let Some(path) = absolute(module, &path, &modules) {
                        source.exports.insert(name, path);
                    }
                }
            }
        }
        let edges =
            sources.keys().map(|module| (module.clone(), edges(module, &sources, &modules))).collect();
        Self { edges }
    }

    /// Returns the import cycles: sets of modules that import each other, directly or through others.
    pub fn cycles(&self) -> Vec<BTreeSet<Module>> {
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            self.edges.keys().map(|module| (module, self.reachable(module))).collect();
        let mut cycles: Vec<BTreeSet<Module>> = Vec::new();
        for (module, reachable) in &reached {
            if reachable.contains(module) && !cycles.iter().any(|cycle| cycle.contains(*module)) {
                let mutual = reachable.iter().filter(|other| reached[*other].contains(*module));
                cycles.push(mutual.map(|other| (*other).clone()).collect());
            }
        }
        cycles
    }

    /// Returns all modules that `start` imports, directly or through others.
    fn reachable(&self, start: &Module) -> BTreeSet<&Module> {
        let mut reachable = BTreeSet::new();
        let mut open: Vec<&Module> = self.edges[start].iter().collect();
        while let Some(module) = open.pop() {
            if reachable.insert(module) {
                open.extend(&self.edges[module]);
            }
        }
        reachable
    }
}

/// Returns the modules from which `module` imports.
fn edges(
    module: &Module,
    sources: &BTreeMap<Module, Source>,
    modules: &BTreeSet<Module>,
) -> BTreeSet<Module> {
    let code = &sources[module].code;
    let mut paths: Vec<Module> = Vec::new();
    // Names of modules that are in scope: children, and modules that a `use` brings in.
    let mut scope: BTreeMap<String, Module> = modules
        .iter()
        .filter(|other| other.len() == module.len() + 1 && other.starts_with(module))
        .map(|child| (child[module.len()].clone(), child.clone()))
        .collect();
    for declaration in declarations(code).filter(|declaration| !declaration.public) {
        for (path, name) in declaration.paths() {
            if let Some(path) = absolute(module, &path, modules) {
                if modules.contains(&path) {
                    scope.insert(name, path.clone());
                }
                paths.push(path);
            }
        }
    }
    for path in paths_in(&without_declarations(code)) {
        let first = path[0].as_str();
        if first == "crate" || first == "super" || first == "self" {
            paths.extend(absolute(module, &path, modules));
        } else if let Some(start) = scope.get(first) {
            paths.push([start.as_slice(), &path[1..]].concat());
        }
    }
    let mut edges: BTreeSet<Module> = paths
        .iter()
        .filter_map(|path| defined_in(path, sources, 0))
        .filter(|other| other != module)
        .collect();
    edges.remove(&Module::new());
    edges
}

/// Returns the module that defines the item at `path`: its longest part that is a module, through re-exports.
fn defined_in(path: &[String], sources: &BTreeMap<Module, Source>, depth: usize) -> Option<Module> {
    let (length, source) =
        (0..=path.len()).rev().find_map(|length| Some((length, sources.get(&path[..length])?)))?;
    let export = path.get(length).and_then(|name| source.exports.get(name)).filter(|_| depth < 9);
    match export {
        Some(export) => defined_in(&[export, &path[length + 1..]].concat(), sources, depth + 1),
        None => Some(path[..length].to_vec()),
    }
}

/// Returns the full path of `path` as `module` means it; `None` for the path of another crate.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    if supers > 0 {
        return Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat());
    }
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module.as_slice(), &path[1..]].concat()),
        first => {
            let child = [module.as_slice(), &[first.to_owned()]].concat();
            modules.contains(&child).then(|| [module.as_slice(), path].concat())
        }
    }
}

/// A `use` declaration.
struct Declaration<'a> {
    public: bool,
    tree: &'a str,
}

impl Declaration<'_> {
    /// Returns the imported paths, with the name that each has here.
    fn paths(&self) -> Vec<(Module, String)> {
        let mut paths = Vec::new();
        expand("", self.tree, &mut paths);
        paths
            .into_iter()
            .map(|path| {
                let (path, alias) =
                    path.split_once(" as ").map_or((path.as_str(), None), |(p, a)| (p, Some(a)));
                let mut path: Module = path.split("::").map(|part| part.trim().to_owned()).collect();
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name =
                    alias.map_or_else(|| path.last().unwrap().clone(), |alias| alias.trim().to_owned());
                (path, name)
            })
            .collect()
    }
}

/// Expands `a::{b, c::{d, e}}` into its paths.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let mut depth = 0;
    let parts = tree.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, rest)) => {
                let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
                expand(&format!("{prefix}{head}"), inner, paths);
            }
            None => paths.push(format!("{prefix}{part}")),
        }
    }
}

/// Returns the `use` declarations of a file.
fn declarations(code: &str) -> impl Iterator<Item = Declaration<'_>> {
    let starts = code.match_indices("use ").filter_map(|(at, _)| {
        let before = code[..at].rsplit('\n').next().unwrap().trim();
        let public = before.starts_with("pub");
        let tree = code[at + 4..].split_once(';')?.0;
        (before.is_empty() || public).then_some(Declaration { public, tree })
    });
    starts.collect::<Vec<_>>().into_iter()
}

/// Returns a file's code without its `use` declarations.
fn without_declarations(code: &str) -> String {
    let mut text = code.to_owned();
    for declaration in declarations(code) {
        text = text.replace(&format!("use {};", declaration.tree), "");
    }
    text
}

/// Returns all paths of two parts or more.
fn paths_in(code: &str) -> Vec<Module> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = code.split(|c: char| !is_part(c)).filter(|word| word.contains("::"));
    words
        .map(|word| word.split("::").map(|part| part.trim_matches(':').to_owned()).collect::<Module>())
        .filter(|path| path.iter().all(|part| !part.is_empty()))
        .collect()
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Removes each item after `#[cfg(test)]`: up to a line that ends with `;`, or to the brace in the column of
/// the attribute.
fn without_tests(code: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let mut is_block = false;
        for line in lines.by_ref() {
            is_block |= line.trim_end().ends_with('{');
            if (!is_block && line.trim_end().ends_with(';')) || line.trim_end() == end {
                break;
            }
        }
    }
    kept.join("\n")
}

#[test]
fn use_trees_are_expanded() {
    let declaration = Declaration { public: false, tree: "crate::{a::{self, B as C}, d}" };
    let paths = declaration.paths().into_iter().map(|(path, name)| format!("{} {name}", path.join("::")));
    assert_eq!(paths.collect::<Vec<_>>(), ["crate::a a", "crate::a::B C", "crate::d d"]);
}

#[test]
fn test_modules_do_not_count() {
    let code = "use a;\n#[cfg(test)]\nmod tests;\nuse b;\n#[cfg(test)]\nmod more {\n    use c;\n}\nuse d;";
    assert_eq!(without_tests(code), "use a;\nuse b;\nuse d;");
}

#[test]
fn finds_a_cycle_of_three_files() {
    let module = |name: &str| vec![name.to_owned()];
    let edges = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a"]), ("d", vec!["a"])];
    let edges =
        edges.map(|(from, to)| (module(from), to.into_iter().map(module).collect::<BTreeSet<_>>())).into();
    let cycles = Imports { edges }.cycles();
    assert_eq!(cycles, [BTreeSet::from(["a", "b", "c"].map(module))]);
}
