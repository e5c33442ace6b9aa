//! What fuzzing found worth keeping, as plain tests; and each text cut off and bent at many places.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/properties.rs"]
mod properties;

use std::{fs, path::PathBuf};

/// Enough to bend most keys and values of a text of a few kilobytes somewhere, in a few seconds.
const BENT: usize = 60;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let entries = fs::read_dir(folder.join(name)).unwrap();
    let mut texts: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read(&path).unwrap();
            (path, text)
        })
        .collect();
    texts.sort();
    assert!(texts.len() >= 5, "the corpus {name:?} is there");
    texts
}

/// As the text stands, cut off, with a byte taken out, and with a byte that is another.
fn throw(text: &[u8], judge: fn(&[u8])) {
    judge(text);
    let step = (text.len() / BENT).max(1);
    for at in (0..text.len()).step_by(step) {
        judge(&text[..at]);
        judge(&[&text[..at], &text[at + 1..]].concat());
        for other in *b"0\"-" {
            let mut bent = text.to_vec();
            bent[at] = other;
            judge(&bent);
        }
    }
}

#[test]
fn every_config_of_the_corpus_is_judged_and_none_breaks_the_engine() {
    for (path, text) in corpus("config") {
        eprintln!("{}", path.display());
        throw(&text, properties::config);
    }
}

#[test]
fn every_process_of_the_corpus_is_judged_and_none_breaks_the_engine() {
    for (path, text) in corpus("process") {
        eprintln!("{}", path.display());
        throw(&text, properties::process);
    }
}
