//! What fuzzing found worth keeping, read for plain tests: each text as it stands, cut off, and bent at many places.

use std::{fs, path::PathBuf};

/// Enough to bend most keys and values of a text of a few kilobytes somewhere, in a few seconds.
const BENT: usize = 60;

/// Judges each text of a corpus.
pub fn each(name: &str, judge: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let entries = fs::read_dir(folder.join(name)).expect("the corpus is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the corpus can be listed").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 5, "the corpus {name:?} is there");
    for path in paths {
        eprintln!("{}", path.display());
        throw(&fs::read(&path).expect("a text can be read"), judge);
    }
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
