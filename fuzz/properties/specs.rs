//! What must hold for whatever text is taken for a config.json or a process.json. The fuzz targets
//! throw anything at it, and a plain test the corpora.

use hutch_agent::engine::{
    Error,
    rehearsal::{self, Rehearsed},
};

/// A plan for a text of so many bytes: what every container has, and no more than a few times the
/// text, or a guest could be filled by what its host sends.
const PLAN_BYTES_BESIDE: usize = 64 * 1024;
const PLAN_TIMES_TEXT: usize = 32;
/// Each warning comes from something in the text.
const WARNINGS_BESIDE: usize = 64;

pub fn config(text: &[u8]) {
    judge(text, rehearsal::config);
}

pub fn process(text: &[u8]) {
    judge(text, rehearsal::process);
}

fn judge(text: &[u8], rehearse: fn(&[u8]) -> Result<Rehearsed, Error>) {
    let first = rehearse(text);
    let again = rehearse(text);
    match (first, again) {
        (Ok(first), Ok(again)) => {
            assert_eq!(first, again, "the same text gives the same plan");
            let most = PLAN_BYTES_BESIDE + PLAN_TIMES_TEXT * text.len();
            assert!(first.plan.len() <= most, "{} bytes", first.plan.len());
            assert!(first.warnings.len() <= WARNINGS_BESIDE + text.len());
        }
        (Err(first), Err(again)) => {
            let said = first.to_string();
            assert_eq!(
                said,
                again.to_string(),
                "the same text is refused for the same reason"
            );
            assert!(!said.is_empty());
        }
        (first, again) => panic!("{first:?} and {again:?}"),
    }
}
