//! No circles of imports: two files do not import each other, directly or over others. A module and those below it may;
//! they are one concept. Tests do not count. What a module re-exports belongs to that module here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use crate::source::Source;

/// The files of our crates by their modules.
type Files<'a> = BTreeMap<&'a [String], &'a Source>;

/// The modules that a file imports, each with the line.
type Imports<'a> = BTreeMap<&'a [String], usize>;

/// Reports each circle at its first file. Of circles that share files it may report one alone.
pub fn check(sources: &[Source], violations: &mut Vec<String>) {
    let ours = sources.iter().filter(|source| source.is_ours() && !source.is_test);
    let files: Files<'_> = ours.map(|source| (source.module.as_slice(), source)).collect();
    let imports: BTreeMap<&[String], Imports<'_>> =
        files.iter().map(|(&module, source)| (module, imports_of(source, &files))).collect();
    for &start in imports.keys() {
        let Some(circle) = shortest_circle(start, &imports) else { continue };
        if circle.iter().any(|&module| module < start) {
            continue;
        }
        let others: Vec<&str> = circle[1..].iter().map(|&module| files[module].path.as_str()).collect();
        violations.push(format!(
            "{}:{}: imports {}, which imports it; move what both need into a file of its own",
            files[start].path,
            imports[start][circle[1]],
            others.join(", which imports ")
        ));
    }
}

fn imports_of<'a>(source: &Source, files: &Files<'a>) -> Imports<'a> {
    let mut imports = Imports::new();
    for named in source.paths.iter().filter(|named| !named.in_test) {
        let Some(names) = named.in_our_crate() else { continue };
        let file = (0..=names.len()).rev().find_map(|len| files.get_key_value(&names[..len]));
        let Some((&module, _)) = file else { continue };
        if !module.starts_with(&source.module) && !source.module.starts_with(module) {
            imports.entry(module).or_insert(named.line);
        }
    }
    imports
}

/// The shortest way along imports from a file back to it, without its end.
fn shortest_circle<'a>(
    start: &'a [String],
    imports: &BTreeMap<&'a [String], Imports<'a>>,
) -> Option<Vec<&'a [String]>> {
    let mut importers: BTreeMap<&[String], &'a [String]> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(file) = next.pop_front() {
        for &import in imports[file].keys() {
            if import == start {
                let mut circle = vec![file];
                while let Some(&importer) = importers.get(circle[circle.len() - 1]) {
                    circle.push(importer);
                }
                circle.reverse();
                return Some(circle);
            }
            if let Entry::Vacant(entry) = importers.entry(import) {
                entry.insert(file);
                next.push_back(import);
            }
        }
    }
    None
}
