//! docs/oci-spec.md promises a test for each field of config.json: each must be there.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn room() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn tests_below(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            names.extend(tests(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Functions with a test's attribute, and lines of a list: a case or a story that runs is in one.
fn tests(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_marked = false;
    for line in text.lines().map(str::trim) {
        if let Some(attribute) = line.strip_prefix("#[") {
            let path = attribute.split(['(', ']']).next().unwrap_or_default();
            is_marked |= path.rsplit("::").next() == Some("test");
        } else if let Some((_, function)) = line.split_once("fn ") {
            if is_marked {
                names.extend(function.split('(').next().map(str::to_owned));
            }
            is_marked = false;
        } else if let Some(listed) = line.strip_suffix(',') {
            names.extend(listed.rsplit("::").next().map(str::to_owned));
        }
    }
    names
}

/// Sentences in backticks: no field of the specification has so many words.
fn sentences(text: &str) -> BTreeSet<String> {
    let words = text.split('`').skip(1).step_by(2);
    let sentence = |word: &&str| {
        word.matches('_').count() >= 2
            && word
                .chars()
                .all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_')
    };
    words.filter(sentence).map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_table_of_fields_names_is_there() {
    let table = fs::read_to_string(room().join("../../docs/oci-spec.md")).unwrap();
    let mut names = BTreeSet::new();
    tests_below(&room().join("src"), &mut names);
    tests_below(&room().join("tests"), &mut names);
    tests_below(&room().join("../hutchd/tests"), &mut names);
    tests_below(&room().join("../../xtask/src/e2e/stories"), &mut names);

    let promised = sentences(&table);

    let missing: Vec<_> = promised.difference(&names).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(promised.len() > 50, "{promised:?}");
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    for row in rows.filter(|row| !row.starts_with("| field ")) {
        assert!(
            row.matches(" | ").count() == 2 && row.contains('`'),
            "{row}"
        );
        let tests = row.rsplit(" | ").next().unwrap();
        assert!(!sentences(tests).is_empty(), "no test in: {row}");
    }
}

#[test]
fn a_function_that_nobody_runs_is_no_test() {
    let found = tests(
        "fn helps() {}\n#[test]\n#[cfg_attr(\n    x,\n    ignore\n)]\nfn holds() {}\n\
         #[tokio::test(start_paused = true)]\nasync fn waits() {}\n\
         cases![\n    is_played,\n];\nfn is_played() {}\n\
         on!(real: [\n    stories::is_told,\n]);\n#[cfg(test)]\npub fn is_left() {}\n",
    );

    for test in ["holds", "waits", "is_played", "is_told"] {
        assert!(found.contains(test), "{test}: {found:?}");
    }
    for other in ["helps", "is_left"] {
        assert!(!found.contains(other), "{other}: {found:?}");
    }
}
