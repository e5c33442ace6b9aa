//! Pages promise behaviours and name what proves them: tests, and cases of the conformance. Both must be there, and be played;
//! and what is built must name one.

use super::{Finding, registered, tree::Tree};
use crate::conformance::case;
use std::collections::BTreeSet;

const ENDING: &str = ".md";
/// Test names are sentences; a shorter name in code type is something else.
const WORDS_MIN: usize = 4;
/// What stands in front of the cases that a line names.
const CASES: &str = "conformance: ";
const CASES_FOLDER: &str = "xtask/src/conformance/cases/";
/// What names a whole file of cases.
const ALL_CASES: &str = "the cases of `";
/// The page whose rows each name what proves them.
const ROWS: &str = "docs/behaviours.md";
/// The page whose tables have a row for each field, with its tests in the last column.
const FIELDS: &str = "docs/oci-spec.md";
/// The last of the rows that are about calls and about the command line; those after it come with other issues.
const PROVEN_MAX: u32 = 65;
/// What the row of a decision begins with.
const DECISION: char = 'D';
/// The state of a row that nothing can prove.
const NOT_YET: &str = "not yet";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let tests: BTreeSet<&str> = tree.sources.iter().flat_map(registered::tests).collect();
    let cases = cases(tree);
    let mut findings = Vec::new();
    for (path, text) in tree.texts.iter().filter(|(path, _)| is_page(path)) {
        for (line, text) in (1..).zip(text.lines()) {
            let missing = named(text)
                .filter(|name| !tests.contains(name))
                .map(|name| format!("there is no test `{name}`"));
            let unplayed = text.split(CASES).skip(1).flat_map(|rest| {
                let (quoted, rest) = quoted(rest);
                let unknown = quoted.iter().filter(|name| !cases.contains(**name));
                let mut faults: Vec<String> = unknown
                    .map(|name| format!("there is no case {name:?} of the conformance"))
                    .collect();
                faults.extend((quoted.is_empty() && !is_whole_file(tree, rest)).then(|| {
                    format!("`{CASES}` names neither cases nor a file of {CASES_FOLDER}")
                }));
                faults
            });
            let unproven = match path.as_str() {
                ROWS => unproven(text),
                FIELDS => untested(text),
                _ => None,
            };
            let faults = missing.chain(unplayed).chain(unproven);
            findings.extend(faults.map(|fault| Finding::hard(path, line, fault)));
        }
    }
    findings
}

fn is_page(path: &str) -> bool {
    path.ends_with(ENDING)
}

/// The names of all cases. A file that cannot be read has none; the conformance's own tests say what is wrong with it.
fn cases(tree: &Tree) -> BTreeSet<String> {
    let files = tree
        .texts
        .iter()
        .filter(|(path, _)| path.starts_with(CASES_FOLDER));
    files
        .flat_map(|(_, text)| case::parse(text).unwrap_or_default())
        .map(|case| case.name)
        .collect()
}

/// What is wrong with a row that says how something is done, and names nothing that shows it.
fn unproven(line: &str) -> Option<String> {
    let mut cells = line.strip_prefix("| ")?.split(" | ");
    let row = cells.next()?;
    let number = row.parse::<u32>();
    let is_asked = number.map_or(row.starts_with(DECISION), |number| number <= PROVEN_MAX);
    let is_proven = named(line).next().is_some() || line.contains(CASES);
    let is_built = cells.all(|cell| cell != NOT_YET);
    (is_asked && is_built && !is_proven).then(|| format!("row {row} names nothing that proves it"))
}

/// What is wrong with the row of a field.
fn untested(line: &str) -> Option<String> {
    let row = line.strip_prefix("| ")?.strip_suffix(" |");
    let cells: Vec<&str> = row.unwrap_or_default().split(" | ").collect();
    match cells[..] {
        ["field" | "---", ..] => None,
        [_, _, tests] if named(tests).next().is_some() => None,
        [field, _, _] => Some(format!("no test in the row of {field}")),
        _ => Some("a row has a field, what becomes of it, and its tests".to_owned()),
    }
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

/// The names in quotes at the beginning, one after the other, and what follows them.
fn quoted(mut text: &str) -> (Vec<&str>, &str) {
    let mut names = Vec::new();
    while let Some((name, rest)) = text.strip_prefix('"').and_then(|text| text.split_once('"')) {
        names.push(name);
        let next = [", ", " and "]
            .iter()
            .find_map(|between| rest.strip_prefix(between));
        text = next.unwrap_or(rest);
    }
    (names, text)
}

fn is_whole_file(tree: &Tree, text: &str) -> bool {
    let file = text
        .strip_prefix(ALL_CASES)
        .and_then(|rest| rest.split_once('`'));
    file.is_some_and(|(file, _)| tree.texts.contains_key(&format!("{CASES_FOLDER}{file}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Of the page of behaviours.
    fn found(page: &str) -> Vec<(usize, String)> {
        found_in(ROWS, page)
    }

    /// Of a page beside a test that holds, one that is listed, a function that is no test, and a file of one case.
    fn found_in(path: &str, page: &str) -> Vec<(usize, String)> {
        let files = [
            (path, page),
            (
                "crates/x/src/a.rs",
                "fn a_thing_that_is_done() {}\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn a_thing_that_holds() {}\n}\n",
            ),
            (
                "xtask/src/conformance/cases/look.txt",
                "== it is there [quick]\nstate one\n",
            ),
        ];
        let texts = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        check(&Tree::of(BTreeMap::from(texts)).unwrap())
            .into_iter()
            .map(|finding| (finding.line, finding.text))
            .collect()
    }

    #[test]
    fn a_promised_test_that_does_not_exist_is_named_with_its_line() {
        let found = found(
            "| 1 | `a_thing_that_holds` |\n| 2 | `store::tests::a_thing_that_does_not` | `sandbox_id` |\n",
        );

        let [(2, text)] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert!(text.contains("a_thing_that_does_not"), "{text}");
    }

    #[test]
    fn a_function_that_is_no_test_proves_nothing() {
        let found = found("`a_thing_that_is_done`\n");

        let [(1, text)] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert!(text.contains("a_thing_that_is_done"), "{text}");
    }

    #[test]
    fn a_promised_case_that_does_not_exist_is_named_with_its_line() {
        let found = found(
            "conformance: \"it is there\".\nconformance: \"it is there\", \"it is not\" and \"nor this\"; \"a word\"\n",
        );

        let texts: Vec<(usize, bool)> = found
            .iter()
            .map(|(line, text)| (*line, text.contains("\"a word\"")))
            .collect();
        assert_eq!(texts, [(2, false), (2, false)], "{found:?}");
        assert!(found[0].1.contains("\"it is not\""), "{found:?}");
        assert!(found[1].1.contains("\"nor this\""), "{found:?}");
    }

    #[test]
    fn a_whole_file_of_cases_must_be_one() {
        let found = found(
            "conformance: the cases of `look.txt`.\nconformance: the cases of `see.txt`.\nconformance: some\n",
        );

        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3], "{found:?}");
    }

    #[test]
    fn a_row_that_names_no_test_is_named_unless_nothing_of_it_is_built() {
        let found = found(
            "| # | behaviour | state | how |\n\
             | 1 | calls | built | `a_thing_that_holds` |\n\
             | 2 | calls | built | It works. |\n\
             | 3 | calls | otherwise | conformance: \"it is there\". |\n\
             | 4 | calls | otherwise | In `another_way`. |\n\
             | 58 | calls | not yet | Later. |\n\
             | 66 | other | built | It works. |\n\
             | D4 | built | It works. |\n\
             | D10 | not yet | Later. |\n",
        );

        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 5, 8], "{found:?}");
        assert!(found[0].1.contains("row 2 "), "{found:?}");
        assert!(found[2].1.contains("row D4 "), "{found:?}");
    }

    #[test]
    fn a_field_without_a_test_or_in_a_broken_row_is_named() {
        let found = found_in(
            FIELDS,
            "| field | what becomes of it | test |\n\
             | --- | --- | --- |\n\
             | `umask` | yes. | `a_thing_that_holds` |\n\
             | `hostname` | yes: `a_thing_that_holds`. | by hand |\n\
             | `mounts` | yes. |\n\
             A `line` of no table.\n",
        );

        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [4, 5], "{found:?}");
        assert!(found[0].1.contains("`hostname`"), "{found:?}");
    }
}
