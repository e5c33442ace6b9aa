//! What can be compared of a step: facts by name, with what is different by nature taken out.

use super::{case::Step, meaning};
use serde_json::Value;
use std::collections::BTreeMap;

pub type Facts = BTreeMap<String, String>;

/// What a step showed.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub line: String,
    /// None: it did not end, or had no code.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The verb of a step, by which its output is read and differences are named.
pub fn verb(step: &Step) -> &str {
    match step {
        Step::Verb { words, .. } | Step::Terminal { words } => {
            let known = words.iter().find(|word| VERBS.contains(&word.as_str()));
            known.map_or("none", String::as_str)
        }
        Step::Host(_) => "host",
        Step::Wait { .. } | Step::Until(_) => "wait",
        Step::Console => "console",
    }
}

const VERBS: &[&str] = &[
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
];

/// Containers that are the harness's own.
pub const BED: &str = "bed";

pub fn of(step: &Step, seen: &Seen) -> Facts {
    let mut facts = Facts::new();
    let code = seen.code.map_or("none".to_owned(), |code| code.to_string());
    facts.insert("code".to_owned(), code);
    let (mut runtime, mut program) = meaning::parted(&seen.stderr);
    if has_log(step) {
        // Then what is said on standard error as well has no time before it.
        runtime.append(&mut program);
    }
    if !program.is_empty() {
        facts.insert("program's stderr".to_owned(), program.join("\n"));
    }
    let mut meanings: Vec<&str> = runtime.iter().map(|line| meaning::of(line)).collect();
    meanings.dedup();
    if !meanings.is_empty() {
        facts.insert("stderr".to_owned(), meanings.join(", "));
    }
    // runc explains a verb on standard output before it complains.
    if meanings.first() != Some(&"usage") {
        facts.extend(stdout(step, &seen.stdout));
    }
    facts
}

fn has_log(step: &Step) -> bool {
    matches!(step, Step::Verb { words, .. } if words.iter().any(|word| word == "--log"))
}

fn stdout(step: &Step, text: &str) -> Facts {
    let is_json = |words: &[String]| words.iter().any(|word| word == "json");
    let words: &[String] = match step {
        Step::Verb { words, .. } => words,
        _ => &[],
    };
    match verb(step) {
        _ if text.is_empty() => Facts::new(),
        "state" => json(text, state),
        "list" if words.iter().any(|word| word == "-q" || word == "--quiet") => quiet(text),
        "list" if is_json(words) => json(text, listed),
        "list" => table(text),
        "ps" if is_json(words) => json(text, pids),
        "ps" => processes(text),
        "events" => json(text, shape),
        "features" => json(text, |value| value),
        _ => Facts::from([("stdout".to_owned(), text.to_owned())]),
    }
}

fn json(text: &str, normal: fn(Value) -> Value) -> Facts {
    // Events are a line each; the first stands for all.
    let first = match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(_) => text
            .lines()
            .next()
            .and_then(|line| serde_json::from_str(line).ok()),
    };
    let mut facts = Facts::new();
    match first {
        Some(value) => flatten("stdout", &normal(value), &mut facts),
        None => {
            facts.insert("stdout".to_owned(), format!("not JSON: {text}"));
        }
    }
    facts
}

fn flatten(path: &str, value: &Value, facts: &mut Facts) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                flatten(&format!("{path}/{name}"), value, facts);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (number, value) in items.iter().enumerate() {
                // A list of words is a set: its order says nothing.
                let name = value.as_str().map_or(number.to_string(), str::to_owned);
                flatten(&format!("{path}/{name}"), value, facts);
            }
        }
        other => {
            facts.insert(path.to_owned(), other.to_string());
        }
    }
}

fn state(mut value: Value) -> Value {
    if let Some(pid) = value.get("pid").and_then(Value::as_i64) {
        value["pid"] = if pid > 0 { "a pid".into() } else { pid.into() };
    }
    if let Some(created) = value.get("created").and_then(Value::as_str) {
        let is_time = created.len() >= 20 && created.ends_with('Z') && created.contains('T');
        value["created"] = if is_time { "a time" } else { "no time" }.into();
    }
    value
}

fn listed(value: Value) -> Value {
    let Value::Array(items) = value else {
        return value;
    };
    let items = items.into_iter().filter(|item| item["id"] != BED);
    let mut items: Vec<Value> = items.map(state).collect();
    items.sort_by_key(|item| item["id"].to_string());
    match items.is_empty() {
        // What a list in Go is that nothing was put into.
        true => Value::Null,
        false => Value::Array(items),
    }
}

fn pids(value: Value) -> Value {
    match value {
        Value::Array(pids) => {
            let are_pids = pids
                .iter()
                .all(|pid| pid.as_u64().is_some_and(|pid| pid > 0));
            let kind = if are_pids { "pids" } else { "no pids" };
            Value::from(format!("{} {kind}", pids.len()))
        }
        other => other,
    }
}

/// Names and types; of a list its first.
fn shape(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| (name, shape(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().take(1).map(shape).collect()),
        Value::Number(_) => "a number".into(),
        other => other,
    }
}

fn quiet(text: &str) -> Facts {
    let mut ids: Vec<&str> = text.lines().filter(|line| *line != BED).collect();
    ids.sort_unstable();
    match ids.is_empty() {
        true => Facts::new(),
        false => Facts::from([("stdout".to_owned(), ids.join(" "))]),
    }
}

/// Each cell by the first of its row and the title of its column.
fn table(text: &str) -> Facts {
    let mut lines = text.lines();
    let titles: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let mut facts = Facts::new();
    for title in &titles {
        facts.insert(format!("stdout/column {title}"), "there".to_owned());
    }
    for line in lines {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let id = cells.first().copied().unwrap_or_default();
        for (title, cell) in titles.iter().zip(&cells).filter(|_| id != BED) {
            let cell = match (*title, *cell) {
                ("PID", "0") => "0",
                ("PID", _) => "a pid",
                ("CREATED", _) => "a time",
                (_, cell) => cell,
            };
            facts.insert(format!("stdout/{id}/{title}"), cell.to_owned());
        }
    }
    facts
}

/// How many, and what they run.
fn processes(text: &str) -> Facts {
    let mut lines = text.lines();
    let titles: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let rows: Vec<&str> = lines.collect();
    let last = |row: &&str| {
        let words: Vec<&str> = row.split_whitespace().collect();
        words
            .iter()
            .skip(titles.len().saturating_sub(1))
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut commands: Vec<String> = rows.iter().map(last).collect();
    commands.sort_unstable();
    let mut facts = Facts::from([
        ("stdout/titles".to_owned(), titles.join(" ")),
        ("stdout/rows".to_owned(), rows.len().to_string()),
    ]);
    if !commands.is_empty() {
        facts.insert("stdout/commands".to_owned(), commands.join("; "));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(words: &str, stdout: &str) -> Facts {
        let words = words.split(' ').map(str::to_owned).collect();
        let input = String::new();
        let seen = Seen {
            code: Some(0),
            stdout: stdout.to_owned(),
            ..Seen::default()
        };
        of(&Step::Verb { words, input }, &seen)
    }

    #[test]
    fn pids_and_times_are_alike_whatever_they_are() {
        let facts = facts(
            "state one",
            r#"{"id":"one","pid":7,"created":"2026-11-28T22:30:30.6Z","annotations":{"a":"b"}}"#,
        );

        assert_eq!(facts["stdout/pid"], "\"a pid\"");
        assert_eq!(facts["stdout/created"], "\"a time\"");
        assert_eq!(facts["stdout/annotations/a"], "\"b\"");
        assert_eq!(facts["code"], "0");
    }

    #[test]
    fn the_harness_own_container_is_in_no_list() {
        assert_eq!(facts("list -q", "bed\none\n")["stdout"], "one");
        assert_eq!(facts("list -q -f json", "bed\none\n")["stdout"], "one");
        assert_eq!(facts("list -f json", "null")["stdout"], "null");
        assert_eq!(facts("list -f json", r#"[{"id":"bed"}]"#)["stdout"], "null");
        let table = facts("list", "ID   PID\nbed  8\none  9\n");
        assert_eq!(table["stdout/one/PID"], "a pid");
        assert!(!table.contains_key("stdout/bed/PID"));
    }

    #[test]
    fn of_processes_their_number_and_their_commands_count() {
        let table = facts("ps one", "PID  CMD\n7    sleep 9\n");

        assert_eq!(table["stdout/rows"], "1");
        assert_eq!(table["stdout/commands"], "sleep 9");
        assert_eq!(facts("ps -f json one", "[7,8]")["stdout"], "\"2 pids\"");
    }
}
