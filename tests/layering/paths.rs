//! Finds the paths that a file names, from the root of the crate, and the items that are compiled for tests alone.
//!
//! A path through an imported module or type is as long as its import: after `use std::time`, `time::Instant` is
//! `std::time::Instant`. Globs and re-exports are not followed.

use std::collections::BTreeMap;
use std::mem;
use std::ops::RangeInclusive;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Path, UseTree};

/// A path in a file.
pub struct NamedPath {
    /// The names of the path. The first is `crate` if it leads into a crate of ours.
    pub names: Vec<String>,
    pub line: usize,
    /// Whether it is in an item for tests alone.
    pub in_test: bool,
}

impl NamedPath {
    /// The names behind `crate`, if the path leads into a crate of ours.
    pub fn in_our_crate(&self) -> Option<&[String]> {
        let (first, rest) = self.names.split_first()?;
        (first == "crate").then_some(rest)
    }
}

/// What is found in a file.
pub struct Paths {
    pub paths: Vec<NamedPath>,
    /// First and last line of each item for tests alone.
    pub test_lines: Vec<RangeInclusive<usize>>,
    /// Modules for tests alone that are files.
    pub test_modules: Vec<Vec<String>>,
}

/// Finds the paths of the file that is `module`.
pub fn find(file: &syn::File, module: &[String]) -> Paths {
    let found = Paths { paths: Vec::new(), test_lines: Vec::new(), test_modules: Vec::new() };
    let mut finder = Finder { module: module.to_vec(), imported: BTreeMap::new(), in_test: false, found };
    finder.visit_file(file);
    let Finder { imported, mut found, .. } = finder;
    for path in found.paths.iter_mut().filter(|path| path.names.len() > 1) {
        if let Some(import) = imported.get(&path.names[0]) {
            path.names = import.iter().chain(&path.names[1..]).cloned().collect();
        }
    }
    found
}

struct Finder {
    /// The module that is visited. An inline module is below that of its file.
    module: Vec<String>,
    /// Names that use declarations outside of tests give, each with its path.
    imported: BTreeMap<String, Vec<String>>,
    in_test: bool,
    found: Paths,
}

impl Finder {
    /// Keeps a path, and what it is from the root of the crate.
    fn keep(&mut self, path: &[Ident]) -> Vec<String> {
        let Some(last) = path.last() else { return Vec::new() };
        let names = self.absolute(path.iter().map(Ident::to_string).collect());
        let line = last.span().start().line;
        self.found.paths.push(NamedPath { names: names.clone(), line, in_test: self.in_test });
        names
    }

    /// The path from the root of this crate. A path into another crate stays as it is.
    fn absolute(&self, names: Vec<String>) -> Vec<String> {
        let leading = names.iter().take_while(|name| *name == "self" || *name == "super").count();
        let (root, used): (Vec<String>, usize) = match names[0].as_str() {
            // In the crate `onwire-notify`, `crate` is what is `crate::notify` elsewhere.
            "crate" if self.module.first().is_some_and(|first| first == "notify") => (vec!["notify".to_owned()], 1),
            "onwire_notify" => (vec!["notify".to_owned()], 1),
            "crate" | "onwire" => (Vec::new(), 1),
            "self" | "super" => {
                let up = names[..leading].iter().filter(|name| *name == "super").count();
                (self.module[..self.module.len().saturating_sub(up)].to_vec(), leading)
            }
            _ => return names,
        };
        let root = ["crate".to_owned()].into_iter().chain(root);
        root.chain(names.into_iter().skip(used)).collect()
    }

    /// Visits what has these attributes.
    fn visit_with(&mut self, attributes: &[Attribute], node: &impl Spanned, visit: impl FnOnce(&mut Self)) {
        let was_in_test = self.in_test;
        if attributes.iter().any(is_for_tests) {
            let span = node.span();
            self.found.test_lines.push(span.start().line..=span.end().line);
            self.in_test = true;
        }
        visit(self);
        self.in_test = was_in_test;
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item(&mut self, item: &'ast Item) {
        self.visit_with(attributes_of(item), item, |finder| visit::visit_item(finder, item));
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        self.visit_with(attributes, item, |finder| visit::visit_impl_item(finder, item));
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        if self.in_test && item.content.is_none() {
            self.found.test_modules.push(self.module.clone());
        }
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for (path, name) in leaves(&item.tree, &[]) {
            let names = self.keep(&path);
            if let Some(name) = name
                && !self.in_test
            {
                self.imported.insert(name.to_string(), names);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Vec<Ident> = path.segments.iter().map(|segment| segment.ident.clone()).collect();
        self.keep(&names);
        visit::visit_path(self, path);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        for path in token_paths(tokens, &[]) {
            self.keep(&path);
        }
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<Path>().is_ok_and(|path| path.is_ident("test"))
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The paths that a use tree behind `before` names, and the name that each gets.
fn leaves(tree: &UseTree, before: &[Ident]) -> Vec<(Vec<Ident>, Option<Ident>)> {
    let mut path = before.to_vec();
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.clone());
            leaves(&tree.tree, &path)
        }
        UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(tree, before)).collect(),
        UseTree::Glob(_) => vec![(path, None)],
        UseTree::Name(leaf) => {
            push_leaf(&mut path, &leaf.ident);
            let name = path.last().cloned();
            vec![(path, name)]
        }
        UseTree::Rename(leaf) => {
            push_leaf(&mut path, &leaf.ident);
            vec![(path, Some(leaf.rename.clone()))]
        }
    }
}

/// In `use a::{self}`, `self` is `a`.
fn push_leaf(path: &mut Vec<Ident>, leaf: &Ident) {
    if leaf != "self" || path.is_empty() {
        path.push(leaf.clone());
    }
}

/// The paths in tokens that nothing parses, such as the arguments of a macro. In the braces of a use tree each
/// continues `before`.
fn token_paths(tokens: &TokenStream, before: &[Ident]) -> Vec<Vec<Ident>> {
    let mut found = Vec::new();
    let mut path = before.to_vec();
    let colons_at_start = if before.is_empty() { 0 } else { 2 };
    let mut colons = colons_at_start;
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(name) => {
                if colons < 2 {
                    end_path(&mut path, before, &mut found);
                }
                path.push(name);
                colons = 0;
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                let continued: &[Ident] = if colons == 2 { &path } else { &[] };
                found.extend(token_paths(&group.stream(), continued));
                end_path(&mut path, before, &mut found);
                colons = colons_at_start;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                end_path(&mut path, before, &mut found);
                colons = colons_at_start;
            }
        }
    }
    end_path(&mut path, before, &mut found);
    found
}

fn end_path(path: &mut Vec<Ident>, before: &[Ident], found: &mut Vec<Vec<Ident>>) {
    if path.len() > before.len() {
        found.push(mem::replace(path, before.to_vec()));
    }
}
