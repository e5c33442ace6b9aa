//! The differences that are meant, and those that are known: docs/conformance.md is the table.
//!
//! A row is `| case | verb | fact | runc | hutch | owner | reason |`. In the first three a `*` stands for anything. `runc`
//! and `hutch` are the values, or `…` for any. An owner is a room that will mend it; `-` is nobody, since it is meant.
//! A reason that begins with "at times" is of a race that runc may win or lose.

use anyhow::{Context, Result, ensure};

const TABLE: &str = include_str!("../../../docs/conformance.md");
const TITLES: &str = "| case | verb | fact | runc | hutch | owner | reason |";
/// No such fact on that side.
pub const NOTHING: &str = "nothing";
const ANY: &str = "…";
const NOBODY: &str = "-";
const AT_TIMES: &str = "at times: ";

/// Something that one runtime shows and the other does not, or not so.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub case: String,
    pub step: usize,
    pub verb: String,
    pub fact: String,
    pub runc: Option<String>,
    pub hutch: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    case: String,
    verb: String,
    fact: String,
    runc: String,
    hutch: String,
    owner: String,
    pub reason: String,
}

impl Row {
    fn parse(line: &str) -> Result<Self> {
        let cells: Vec<String> = line
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect();
        let [case, verb, fact, runc, hutch, owner, reason] = <[String; 7]>::try_from(cells)
            .ok()
            .context("not seven cells")?;
        ensure!(!reason.is_empty(), "no reason is given");
        Ok(Self {
            case,
            verb,
            fact,
            runc,
            hutch,
            owner,
            reason,
        })
    }

    fn names(&self, difference: &Difference) -> bool {
        let value = |cell: &str, value: &Option<String>| {
            cell == ANY || cell == value.as_deref().unwrap_or(NOTHING)
        };
        like(&self.case, &difference.case)
            && like(&self.verb, &difference.verb)
            && like(&self.fact, &difference.fact)
            && value(&self.runc, &difference.runc)
            && value(&self.hutch, &difference.hutch)
    }

    /// The room that will mend it.
    pub fn owner(&self) -> Option<&str> {
        (self.owner != NOBODY).then_some(self.owner.as_str())
    }

    /// It shows up in each run in which its case is played.
    pub fn is_steady(&self) -> bool {
        !self.reason.starts_with(AT_TIMES)
    }

    /// As whoever reads of it finds it again.
    pub fn title(&self) -> String {
        format!("{} / {} / {}", self.case, self.verb, self.fact)
    }
}

/// Whether it is the pattern, of which each `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    let Some((start, mut after)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(mut rest) = text.strip_prefix(start) else {
        return false;
    };
    while let Some((part, next)) = after.split_once('*') {
        let Some(at) = rest.find(part) else {
            return false;
        };
        (rest, after) = (&rest[at + part.len()..], next);
    }
    rest.ends_with(after)
}

pub fn table() -> Result<Vec<Row>> {
    parse(TABLE)
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let rows = text.lines().skip_while(|line| *line != TITLES).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| Row::parse(line).with_context(|| format!("docs/conformance.md: {line:?}")))
        .collect()
}

/// The number of the first row that names it.
pub fn named(table: &[Row], difference: &Difference) -> Option<usize> {
    table.iter().position(|row| row.names(difference))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(fact: &str, hutch: Option<&str>) -> Difference {
        Difference {
            case: "a state".to_owned(),
            step: 0,
            verb: "state".to_owned(),
            fact: fact.to_owned(),
            runc: None,
            hutch: hutch.map(str::to_owned),
        }
    }

    #[test]
    fn a_row_names_its_difference_and_no_other() {
        let text = format!(
            "words\n{TITLES}\n| --- |\n| * | state | `stdout/exit*` | nothing | … | - | ours says how it ended |\n| a state | state | code | nothing | 0 | guest | soon |\n| a state | state | stderr | … | … | - | at times: runc is faster |\n\nmore\n"
        );

        let table = parse(&text).unwrap();

        assert_eq!(table.len(), 3);
        assert_eq!(
            named(&table, &difference("stdout/exit/code", Some("7"))),
            Some(0)
        );
        assert_eq!(named(&table, &difference("code", Some("0"))), Some(1));
        assert_eq!(named(&table, &difference("code", Some("1"))), None);
        assert_eq!(table[0].owner(), None);
        assert_eq!(table[1].owner(), Some("guest"));
        let steady: Vec<bool> = table.iter().map(Row::is_steady).collect();
        assert_eq!(steady, [true, true, false]);
    }

    #[test]
    fn a_star_stands_for_anything_and_all_else_for_itself() {
        for (pattern, text) in [
            ("*", ""),
            ("a*", "ab"),
            ("*b", "ab"),
            ("a/*/c/*", "a/b/c/d"),
            ("a", "a"),
        ] {
            assert!(like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a*", "ba"),
            ("*b", "ba"),
            ("a/*/c/*", "a/b/d"),
            ("a", "ab"),
            ("a*a", "a"),
        ] {
            assert!(!like(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_row_without_a_reason_is_refused_and_the_table_has_none() {
        let text = format!("{TITLES}\n| --- |\n| a | b | c | d | e | - |  |\n");

        assert!(parse(&text).is_err());
        assert!(!table().unwrap().is_empty());
    }
}
