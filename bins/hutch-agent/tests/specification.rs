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

fn functions_below(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions_below(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let after_fn = text.lines().filter_map(|line| {
                let line = line.trim_start();
                let line = line.strip_prefix("pub ").unwrap_or(line);
                let line = line.strip_prefix("async ").unwrap_or(line);
                line.strip_prefix("fn ")
            });
            names.extend(
                after_fn
                    .filter_map(|rest| rest.split_once('('))
                    .map(|(name, _)| name.to_owned()),
            );
        }
    }
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
    functions_below(&room().join("src"), &mut names);
    functions_below(&room().join("tests"), &mut names);
    functions_below(&room().join("../hutchd/tests"), &mut names);
    functions_below(&room().join("../../xtask/src/e2e/stories"), &mut names);

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
