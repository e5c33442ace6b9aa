//! What both runtimes showed, side by side.

use super::{
    case::Case,
    differences::{Difference, NOTHING, Row, named},
    facts::{self, Seen},
    meaning,
};
use std::collections::BTreeSet;

/// As much of what a runtime printed is shown.
const SHOWN_CHARS: usize = 600;

#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// One line each.
    pub failures: Vec<String>,
    /// Differences that a room will mend.
    pub known: Vec<String>,
    /// Rows of the table that were needed.
    pub used: BTreeSet<usize>,
}

pub fn of(case: &Case, runc: &[Seen], hutch: &[Seen], table: &[Row]) -> Verdict {
    let mut verdict = Verdict::default();
    for (step, _) in case.steps.iter().enumerate() {
        let mut failures = Vec::new();
        for difference in differences(case, step, &runc[step], &hutch[step]) {
            match named(table, &difference) {
                Some(number) => {
                    verdict.used.insert(number);
                    let row = &table[number];
                    let known = row.owner().map(|owner| format!("{owner}: {}", row.reason));
                    verdict.known.extend(known);
                }
                None => failures.push(format!("    {}", shown(&difference))),
            }
        }
        failures.extend(unclear(&runc[step], &hutch[step]));
        if failures.is_empty() {
            continue;
        }
        let both = [("runc", &runc[step]), ("hutch", &hutch[step])];
        verdict
            .failures
            .push(format!("  step {}: {}", step + 1, runc[step].line));
        verdict.failures.extend(failures);
        verdict
            .failures
            .extend(both.map(|(who, seen)| said(who, seen)));
    }
    verdict.known.dedup();
    verdict
}

fn differences(case: &Case, step: usize, runc: &Seen, hutch: &Seen) -> Vec<Difference> {
    let kind = &case.steps[step];
    let (theirs, ours) = (facts::of(kind, runc), facts::of(kind, hutch));
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| theirs.get(*name) != ours.get(*name));
    differ
        .map(|fact| Difference {
            case: case.name.clone(),
            step,
            verb: facts::verb(kind).to_owned(),
            fact: fact.clone(),
            runc: theirs.get(fact).cloned(),
            hutch: ours.get(fact).cloned(),
        })
        .collect()
}

/// Words that nobody understands are no agreement; and an error of ours is one line.
fn unclear(runc: &Seen, hutch: &Seen) -> Vec<String> {
    let (theirs, _) = meaning::parted(&runc.stderr);
    let (ours, _) = meaning::parted(&hutch.stderr);
    let is_unknown = |line: &&&str| meaning::of(line) == meaning::UNKNOWN;
    let unknown = theirs.iter().chain(&ours).filter(is_unknown);
    let mut lines: Vec<String> = unknown
        .map(|line| format!("    xtask/src/conformance/meaning.rs does not know: {line}"))
        .collect();
    if ours.len() > 1 {
        lines.push(format!("    hutch said {} lines", ours.len()));
    }
    lines
}

fn shown(difference: &Difference) -> String {
    let value = |value: &Option<String>| match value {
        Some(value) => format!("{:?}", shortened(value)),
        None => NOTHING.to_owned(),
    };
    let Difference {
        fact, runc, hutch, ..
    } = difference;
    format!("{fact}: runc {}, hutch {}", value(runc), value(hutch))
}

fn said(who: &str, seen: &Seen) -> String {
    let code = seen.code.map_or("none".to_owned(), |code| code.to_string());
    let (stdout, stderr) = (shortened(&seen.stdout), shortened(&seen.stderr));
    format!("    {who}: code {code}, stdout {stdout:?}, stderr {stderr:?}")
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::case;

    fn seen(code: i32, stdout: &str, stderr: &str) -> Seen {
        Seen {
            line: "exec one id".to_owned(),
            code: Some(code),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    fn verdict(runc: Seen, hutch: Seen) -> Verdict {
        let [case] = case::parse("== a\nexec one id\n")
            .unwrap()
            .try_into()
            .unwrap();
        of(&case, &[runc], &[hutch], &[])
    }

    #[test]
    fn the_same_in_other_words_is_no_difference() {
        let runc = seen(
            255,
            "",
            "time=\"x\" level=error msg=\"exec failed: container does not exist\"\n",
        );
        let hutch = seen(
            255,
            "",
            "hutch: exec in container \"one\": container does not exist\n",
        );

        assert_eq!(verdict(runc, hutch), Verdict::default());
    }

    #[test]
    fn another_code_output_or_meaning_fails_and_shows_both() {
        let good = seen(0, "uid=0\n", "");
        for bad in [
            seen(1, "uid=0\n", ""),
            seen(0, "uid=1\n", ""),
            seen(0, "uid=0\n", "hutch: not running\n"),
            seen(0, "uid=0\n", "sh: what\n"),
        ] {
            let text = verdict(good.clone(), bad).failures.join("\n");

            assert!(text.contains("step 1: exec one id"), "{text}");
            assert!(text.contains("    hutch: code "), "{text}");
        }
    }

    #[test]
    fn words_that_nobody_understands_are_no_agreement() {
        let runc = seen(1, "", "time=\"x\" level=error msg=\"gibberish\"\n");
        let hutch = seen(1, "", "hutch: gibberish\n");

        assert!(!verdict(runc, hutch).failures.is_empty());
    }
}
