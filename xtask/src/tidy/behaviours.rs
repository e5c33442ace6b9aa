//! docs/behaviours.md promises behaviours and names the tests that prove them: they must exist.

use super::{Finding, tree::Tree};
use std::collections::BTreeSet;

const PAGE: &str = "docs/behaviours.md";
/// Test names are sentences; a shorter name in code type is something else.
const WORDS_MIN: usize = 4;

pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.texts.get(PAGE) else {
        return Vec::new();
    };
    let functions: BTreeSet<String> = tree
        .sources
        .iter()
        .flat_map(|source| source.functions())
        .map(|function| function.name)
        .collect();
    page.lines()
        .enumerate()
        .flat_map(|(index, line)| named(line).map(move |name| (index + 1, name)))
        .filter(|(_, name)| !functions.contains(*name))
        .map(|(line, name)| Finding::hard(PAGE, line, format!("there is no test `{name}`")))
        .collect()
}

/// Test names in a line: in code type, perhaps behind a path.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.rsplit("::").next())
        .filter(|name| {
            name.split('_').count() >= WORDS_MIN
                && name
                    .chars()
                    .all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_promised_test_that_does_not_exist_is_named_with_its_line() {
        let page = "| 1 | `a_thing_that_holds` |\n| 2 | `store::tests::a_thing_that_does_not` | `sandbox_id` |\n";
        let tree = Tree::of(BTreeMap::from([
            (PAGE.to_owned(), page.to_owned()),
            (
                "crates/x/src/a.rs".to_owned(),
                "fn a_thing_that_holds() {}".to_owned(),
            ),
        ]))
        .unwrap();

        let found = check(&tree);

        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].line, 2);
        assert!(found[0].text.contains("a_thing_that_does_not"));
    }
}
