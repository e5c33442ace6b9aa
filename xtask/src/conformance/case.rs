//! A case as it is written: a name, what its bundle has that others have not, and steps.
//!
//! ```text
//! == a container runs in its working directory [quick]
//! set /process/cwd "/tmp"
//! sh pwd
//! run one
//! ```
//!
//! What is not a line of the bundle (`set`, `add`, `del`, `sh`, `args`, `write`, `config`, `no-config`) and not a wait
//! (`wait STATUS ID`, `until SCRIPT`) is a step: `host SCRIPT`, `tty WORDS`, or the words of a verb. `in TEXT` is the next step's input,
//! `console` a listener on `{case}/console.sock`. `{case}` is the case's folder, `{bundle}` the bundle, where every
//! step stands.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub name: String,
    /// Played also without --all.
    pub is_quick: bool,
    /// In a sandbox of its own; the others share one.
    pub is_alone: bool,
    pub bundle: Vec<Change>,
    pub steps: Vec<Step>,
}

/// What makes a bundle other than the usual one.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Set {
        pointer: String,
        value: Value,
    },
    Add {
        pointer: String,
        value: Value,
    },
    Del {
        pointer: String,
    },
    /// A file of the case.
    Write {
        name: String,
        text: String,
    },
    /// config.json as it stands.
    Config(String),
    NoConfig,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Verb {
        words: Vec<String>,
        input: String,
    },
    Terminal {
        words: Vec<String>,
    },
    /// Of a shell on the host, in the bundle.
    Host(String),
    /// Until the container is in this state.
    Wait {
        status: String,
        id: String,
    },
    /// Until a shell on the host succeeds.
    Until(String),
    /// Somebody listens for a terminal from here on.
    Console,
}

impl Step {
    /// As it is shown.
    pub fn line(&self) -> String {
        match self {
            Self::Verb { words, .. } => words.join(" "),
            Self::Terminal { words } => format!("tty {}", words.join(" ")),
            Self::Host(script) => format!("host {script}"),
            Self::Wait { status, id } => format!("wait {status} {id}"),
            Self::Until(script) => format!("until {script}"),
            Self::Console => "console".to_owned(),
        }
    }
}

const HEAD: &str = "== ";

/// All cases of a text.
pub fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut input = String::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix(HEAD) {
            cases.push(opened(head));
            continue;
        }
        let case = cases.last_mut().context("a line before the first case")?;
        let name = case.name.clone();
        read(case, &mut input, line).with_context(|| format!("case {name:?}: {line:?}"))?;
    }
    for case in &cases {
        ensure!(!case.steps.is_empty(), "case {:?} does nothing", case.name);
    }
    Ok(cases)
}

fn opened(head: &str) -> Case {
    let marks = ["[quick]", "[alone]"].map(|mark| head.contains(mark));
    Case {
        name: head.split('[').next().unwrap_or(head).trim().to_owned(),
        is_quick: marks[0],
        is_alone: marks[1],
        bundle: Vec::new(),
        steps: Vec::new(),
    }
}

fn read(case: &mut Case, input: &mut String, line: &str) -> Result<()> {
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let two = || rest.split_once(' ').context("two words are needed");
    let valued = || -> Result<(String, Value)> {
        let (pointer, value) = two()?;
        Ok((pointer.to_owned(), serde_json::from_str(value)?))
    };
    let args = |value| Change::Set {
        pointer: "/process/args".to_owned(),
        value,
    };
    match first {
        "set" => {
            let (pointer, value) = valued()?;
            case.bundle.push(Change::Set { pointer, value });
        }
        "add" => {
            let (pointer, value) = valued()?;
            case.bundle.push(Change::Add { pointer, value });
        }
        "del" => case.bundle.push(Change::Del {
            pointer: rest.to_owned(),
        }),
        "sh" => case
            .bundle
            .push(args(serde_json::json!(["/bin/sh", "-c", rest]))),
        "args" => case.bundle.push(args(serde_json::from_str(rest)?)),
        "write" => {
            let (name, text) = two()?;
            let (name, text) = (name.to_owned(), text.to_owned());
            case.bundle.push(Change::Write { name, text });
        }
        "config" => case.bundle.push(Change::Config(rest.to_owned())),
        "no-config" => case.bundle.push(Change::NoConfig),
        "in" => *input = format!("{rest}\n"),
        _ => case.steps.push(step(first, rest, line, input)?),
    }
    Ok(())
}

fn step(first: &str, rest: &str, line: &str, input: &mut String) -> Result<Step> {
    Ok(match first {
        "host" => Step::Host(rest.to_owned()),
        "until" => Step::Until(rest.to_owned()),
        "console" => Step::Console,
        "tty" => Step::Terminal {
            words: words(rest)?,
        },
        "wait" => {
            let (status, id) = rest.split_once(' ').context("a state and an id")?;
            Step::Wait {
                status: status.to_owned(),
                id: id.to_owned(),
            }
        }
        _ => Step::Verb {
            words: words(line)?,
            input: std::mem::take(input),
        },
    })
}

/// Blanks part words, and single quotes keep them together.
fn words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    if is_quoted {
        bail!("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_case_is_its_marks_its_bundle_and_its_steps() {
        let text = "# words\n== it works [quick] [alone]\nset /process/cwd \"/\"\nsh pwd; id\nin a b\nexec one sh -c 'read x' ''\nwait stopped one\n";

        let cases = parse(text).unwrap();

        let [case] = cases.as_slice() else {
            panic!("{cases:?}")
        };
        assert_eq!(case.name, "it works");
        assert!(case.is_quick && case.is_alone);
        let args = Change::Set {
            pointer: "/process/args".to_owned(),
            value: json!(["/bin/sh", "-c", "pwd; id"]),
        };
        assert_eq!(case.bundle[1], args);
        let exec = ["exec", "one", "sh", "-c", "read x", ""].map(str::to_owned);
        let verb = Step::Verb {
            words: exec.to_vec(),
            input: "a b\n".to_owned(),
        };
        assert_eq!(case.steps[0], verb);
        assert_eq!(case.steps[1].line(), "wait stopped one");
    }

    #[test]
    fn what_cannot_be_read_is_named_by_case_and_line() {
        for text in ["run one", "== a\n", "== a\nset /x {\n", "== a\nexec 'x\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let why = parse("== a\nset /x {\n").unwrap_err();
        assert!(format!("{why:#}").starts_with("case \"a\": \"set /x {\""));
    }
}
