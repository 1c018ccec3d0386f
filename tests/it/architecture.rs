//! Checks the structure of the crates: no cyclic dependencies between files or top-level modules, no long files, and
//! nothing about PyTorch in the pickle machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// Maximum number of lines of a file.
const MAX_LINES: usize = 400;

/// The sources of each crate.
const CRATES: [&str; 5] = ["src", "crates/formats/src", "crates/models/src", "crates/remote/src", "crates/render/src"];

/// The path of a module or item from its crate's root.
type Segments = Vec<String>;

/// The files of a crate by module path.
struct Crate {
    root: &'static str,
    modules: BTreeMap<Segments, File>,
}

#[derive(Default)]
struct File {
    path: PathBuf,
    /// Re-exported names and their origins, as absolute paths.
    reexports: BTreeMap<String, Segments>,
    /// Absolute paths that the file uses, outside of tests.
    used: BTreeSet<Segments>,
    /// The modules of tests that the file declares.
    tests: Vec<Segments>,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(root: &str) -> Vec<PathBuf> {
    let mut folders = vec![repository().join(root)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// `tensor/lazy.rs` is `tensor::lazy`; `tensor/mod.rs` is `tensor`; `lib.rs` is the root.
fn module_path(file: &Path) -> Segments {
    let mut segments: Segments =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if segments.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        segments.pop();
    }
    segments
}

impl Crate {
    fn read(root: &'static str) -> Self {
        let mut modules = BTreeMap::new();
        for path in sources(root) {
            let module = module_path(path.strip_prefix(repository().join(root)).unwrap());
            let parsed = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            let mut reader = Reader { module: module.clone(), file: File { path, ..File::default() } };
            reader.visit_file(&parsed);
            modules.insert(module, reader.file);
        }
        let tests: Vec<Segments> = modules.values().flat_map(|file: &File| file.tests.clone()).collect();
        modules.retain(|module, _| !tests.iter().any(|tests| module.starts_with(tests)));
        Crate { root, modules }
    }

    /// The module that defines the item of an absolute path; `None` if the item is not in this crate.
    fn resolve(&self, path: &[String], depth: usize) -> Option<&Segments> {
        let length = (0..=path.len()).rev().find(|&length| self.modules.contains_key(&path[..length]))?;
        let (module, file) = self.modules.get_key_value(&path[..length])?;
        let Some(name) = path.get(length) else { return Some(module) };
        match file.reexports.get(name) {
            Some(origin) if depth < 8 => self.resolve(origin, depth + 1),
            // The root of a crate is a prefix of every path, so it defines only its own items.
            _ => Some(module),
        }
    }

    /// The edges between files, from module to module.
    fn edges(&self) -> BTreeMap<&Segments, BTreeSet<&Segments>> {
        let targets = |(module, file): (&'_ Segments, &File)| {
            let found = file.used.iter().filter_map(|path| self.resolve(path, 0));
            found.filter(|target| *target != module).collect::<BTreeSet<_>>()
        };
        self.modules.iter().map(|(module, file)| (module, targets((module, file)))).collect()
    }

    fn name(&self, module: &[String]) -> String {
        self.modules[module].path.strip_prefix(repository()).unwrap().display().to_string()
    }
}

/// Collects the paths of one file.
struct Reader {
    module: Segments,
    file: File,
}

impl Reader {
    /// `crate::a`, `self::a` and `super::a` as absolute paths; `a::b` as a path below this module.
    fn absolute(&self, path: &[String]) -> Segments {
        let mut module = self.module.clone();
        let mut rest = path;
        while let [first, tail @ ..] = rest {
            match first.as_str() {
                "crate" => module.clear(),
                "super" => drop(module.pop()),
                "self" => {}
                _ => break,
            }
            rest = tail;
        }
        module.extend(rest.iter().cloned());
        module
    }

    fn use_tree(&mut self, tree: &syn::UseTree, prefix: &mut Segments, is_reexport: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.use_tree(&path.tree, prefix, is_reexport);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix, is_reexport);
                }
            }
            syn::UseTree::Name(name) => self.used_name(&name.ident, &name.ident, prefix, is_reexport),
            syn::UseTree::Rename(name) => self.used_name(&name.ident, &name.rename, prefix, is_reexport),
            syn::UseTree::Glob(_) => drop(self.file.used.insert(self.absolute(prefix))),
        }
    }

    fn used_name(&mut self, name: &syn::Ident, known_as: &syn::Ident, prefix: &[String], is_reexport: bool) {
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        let path = self.absolute(&path);
        if is_reexport {
            self.file.reexports.insert(known_as.to_string(), path);
        } else {
            self.file.used.insert(path);
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        self.use_tree(&item.tree, &mut Vec::new(), is_reexport);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test(&item.attrs) {
            self.file.tests.push(self.absolute(&[item.ident.to_string()]));
        } else {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 && ["crate", "self", "super"].contains(&segments[0].as_str()) {
            self.file.used.insert(self.absolute(&segments));
        }
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Returns the groups of nodes that reach each other.
fn cycles<'a, T: Ord + Clone>(edges: &'a BTreeMap<T, BTreeSet<T>>) -> Vec<BTreeSet<&'a T>> {
    let reached = |start: &'a T| {
        let mut reached = BTreeSet::new();
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            open.extend(edges.get(node).into_iter().flatten().filter(|next| reached.insert(*next)));
        }
        reached
    };
    let all: BTreeMap<&T, BTreeSet<&T>> = edges.keys().map(|node| (node, reached(node))).collect();
    let cycle = |node: &'a T| {
        let members = all[node].iter().filter(|member| all.get(**member).is_some_and(|back| back.contains(node)));
        members.copied().collect::<BTreeSet<&T>>()
    };
    let found: BTreeSet<BTreeSet<&T>> = edges.keys().map(cycle).filter(|cycle| !cycle.is_empty()).collect();
    found.into_iter().collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn files_have_no_cyclic_dependencies() {
    let mut problems = Vec::new();
    for found in CRATES.map(Crate::read) {
        let edges: BTreeMap<Segments, BTreeSet<Segments>> =
            found.edges().into_iter().map(|(from, to)| (from.clone(), to.into_iter().cloned().collect())).collect();
        assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 10, "{}: no edges were found", found.root);
        for cycle in cycles(&edges) {
            let names: Vec<String> = cycle.iter().map(|module| found.name(module)).collect();
            problems.push(format!("cyclic dependency of files: {}", names.join(", ")));
        }
    }
    assert_none(&problems);
}

#[test]
fn top_level_modules_have_no_cyclic_dependencies() {
    let mut problems = Vec::new();
    for found in CRATES.map(Crate::read) {
        let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, targets) in found.edges() {
            let Some(from) = from.first() else { continue };
            let others = targets.into_iter().filter_map(|target| target.first()).filter(|to| *to != from);
            modules.entry(from.clone()).or_default().extend(others.cloned());
        }
        for cycle in cycles(&modules) {
            problems.push(format!("{}: cyclic dependency of modules: {cycle:?}", found.root));
        }
    }
    assert_none(&problems);
}

#[test]
fn files_are_not_too_long() {
    let mut problems = Vec::new();
    for path in CRATES.into_iter().flat_map(sources) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{}: {lines} lines, expected at most {MAX_LINES}", path.display()));
        }
    }
    assert_none(&problems);
}

#[test]
fn the_pickle_machine_does_not_mention_torch() {
    let mut problems = Vec::new();
    for path in sources("crates/formats/src/pickle") {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        let code = code.filter(|line| !line.trim_start().starts_with("//"));
        if code.into_iter().any(|line| line.to_lowercase().contains("torch")) {
            problems.push(path.display().to_string());
        }
    }
    assert_none(&problems);
}

#[test]
fn finds_cycles_but_not_chains() {
    let edges = |pairs: &[(u8, u8)]| {
        let mut edges: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        for &(from, to) in pairs {
            edges.entry(from).or_default().insert(to);
            edges.entry(to).or_default();
        }
        edges
    };
    assert!(cycles(&edges(&[(1, 2), (2, 3), (1, 3)])).is_empty());
    let found = edges(&[(1, 2), (2, 3), (3, 2), (3, 4)]);
    assert_eq!(cycles(&found), [BTreeSet::from([&2, &3])]);
}
