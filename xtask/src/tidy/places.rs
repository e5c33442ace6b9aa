//! What lands names no machine and no registry: it must be true everywhere.

use super::{Finding, tree::Tree};

/// In pieces, so that this file does not find itself.
const NEVER: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/fa", "rm/"), "a path of one machine"),
    (concat!("/root/", "lab"), "a path of one machine"),
    (concat!("deb.debian", ".org"), "a registry's host"),
    (concat!("pypi", ".org"), "a registry's host"),
    (concat!("registry.npm", "js"), "a registry's host"),
    (concat!("index.crates", ".io"), "a registry's host"),
    (concat!("static.crates", ".io"), "a registry's host"),
];

pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.texts
        .iter()
        .flat_map(|(path, text)| {
            text.lines().enumerate().flat_map(move |(index, line)| {
                NEVER
                    .iter()
                    .filter(|(word, _)| line.contains(word))
                    .map(move |(word, what)| {
                        Finding::hard(path, index + 1, format!("`{word}` is {what}"))
                    })
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_path_of_a_machine_is_found_in_any_text() {
        let text = format!("first\nsee {}here\n", NEVER[0].0);
        let tree = Tree::of(BTreeMap::from([("README.md".to_owned(), text)])).unwrap();

        let found = check(&tree);

        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("README.md", 2));
    }
}
