//! Who may touch what: rooms depend only on what they may, and machines on nothing.

use super::{
    Finding,
    source::{Source, Token},
    tree::Tree,
};

/// A crate of ours, and what it keeps away from.
struct Room {
    folder: &'static str,
    /// Crates of ours that it may depend on.
    ours: &'static [&'static str],
    /// Crates of others that it never depends on.
    crates: &'static [&'static str],
    /// Paths that its code never names.
    paths: &'static [&'static str],
}

const OURS: &[&str] = &[
    "agent-client",
    "devices",
    "host",
    "hypervisor",
    "netns",
    "proc",
    "protocols",
    "runtime-core",
    "store",
    "stream",
];

const WORLD: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::os::unix::net",
    "std::thread::Builder",
    "std::thread::scope",
    "std::thread::sleep",
    "std::thread::spawn",
    "thread::Builder",
    "thread::scope",
    "thread::sleep",
    "thread::spawn",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
    "nix",
    "libc",
];

const ROOMS: &[Room] = &[
    Room {
        folder: "crates/runtime-core/",
        ours: &[],
        crates: &[
            "anyhow",
            "libc",
            "nix",
            "qapi",
            "rtnetlink",
            "sled",
            "tokio-vsock",
            "ttrpc",
            "vsock",
        ],
        paths: WORLD,
    },
    Room {
        folder: "crates/stream/",
        ours: &[],
        crates: &["actix", "anyhow", "libc", "nix", "tokio"],
        paths: WORLD,
    },
    Room {
        folder: "crates/proc/",
        ours: &[],
        crates: &["actix", "anyhow", "nix", "serde", "tokio"],
        paths: &["std::net", "std::thread::spawn"],
    },
    Room {
        folder: "crates/protocols/",
        ours: &[],
        crates: &["actix", "anyhow", "nix", "sled"],
        paths: &[],
    },
    Room {
        folder: "crates/hypervisor/",
        ours: &["proc", "runtime-core"],
        crates: &["anyhow", "rtnetlink", "sled", "ttrpc"],
        paths: &[],
    },
    Room {
        folder: "crates/agent-client/",
        ours: &["protocols", "runtime-core", "stream"],
        crates: &["anyhow", "qapi", "rtnetlink", "sled"],
        paths: &["std::process", "tokio::process"],
    },
    Room {
        folder: "crates/netns/",
        ours: &["runtime-core"],
        crates: &["anyhow", "qapi", "sled", "tokio-vsock", "ttrpc", "vsock"],
        paths: &[],
    },
    Room {
        folder: "crates/devices/",
        ours: &["proc", "runtime-core"],
        crates: &["anyhow", "qapi", "rtnetlink", "sled", "ttrpc"],
        paths: &[],
    },
    Room {
        folder: "crates/host/",
        ours: &["proc", "runtime-core"],
        crates: &["anyhow", "qapi", "rtnetlink", "sled", "ttrpc"],
        paths: &[],
    },
    Room {
        folder: "crates/store/",
        ours: &["proc", "runtime-core"],
        crates: &["anyhow", "qapi", "rtnetlink", "ttrpc"],
        paths: &[
            "std::net",
            "std::process::Command",
            "tokio::net",
            "tokio::process",
        ],
    },
    // The daemon and the rest: the store is opened by nobody but its room, QMP spoken by nobody but its own.
    Room {
        folder: "bins/",
        ours: OURS,
        crates: &["qapi", "rtnetlink", "sled"],
        paths: &[],
    },
];

/// A machine is a value: nothing in it waits, counts time, draws lots, logs or depends on an order that changes.
const NOT_IN_MACHINES: &[&str] = &[
    "actix",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::io",
    "std::sync",
    "tokio",
    "tracing",
];
const KIT: &str = "crates/runtime-core/src/kit/";
/// What actix does and kit does better.
const KIT_ONLY: &[&str] = &[
    "Arbiter",
    "Supervisor",
    "SyncArbiter",
    "actix::Arbiter",
    "actix::Supervisor",
    "actix::SyncArbiter",
    "actix::System",
    "actix::spawn",
];

pub fn check(source: &Source) -> Vec<Finding> {
    let path = source.path();
    let mut never: Vec<(&str, &str)> = Vec::new();
    let mut forbid = |paths: &[&'static str], why: &'static str| {
        never.extend(paths.iter().map(|path| (*path, why)));
    };
    if let Some(room) = ROOMS.iter().find(|room| path.starts_with(room.folder)) {
        forbid(room.paths, "this room does not touch it");
    }
    if path.starts_with("crates/") && !path.starts_with(KIT) {
        forbid(KIT_ONLY, "only kit does");
    }
    if is_machine(path) {
        forbid(WORLD, "a machine does not touch the world");
        forbid(NOT_IN_MACHINES, "not in a machine");
    }
    let mut findings: Vec<Finding> = paths(source.tokens())
        .into_iter()
        .filter(|(_, line)| !source.in_test(*line) && !path.ends_with("build.rs"))
        .flat_map(|(used, line)| {
            never
                .iter()
                .filter(move |(never, _)| is_below(&used, never))
                .map(move |(never, why)| Finding::hard(path, line, format!("`{never}`: {why}")))
        })
        .collect();
    if is_machine(path) {
        let waits = source.find(&["async"]).into_iter();
        findings.extend(
            waits
                .filter(|line| !source.in_test(*line))
                .map(|line| Finding::hard(path, line, "a machine does not wait")),
        );
    }
    findings.dedup();
    findings
}

fn is_machine(path: &str) -> bool {
    path.starts_with("crates/") && (path.ends_with("/machine.rs") || path.contains("/machine/"))
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Looks at the dependencies of every room.
pub fn check_manifests(tree: &Tree) -> Vec<Finding> {
    tree.texts
        .iter()
        .filter(|(path, _)| path.ends_with("/Cargo.toml"))
        .filter_map(|(path, text)| {
            let room = ROOMS.iter().find(|room| path.starts_with(room.folder))?;
            Some((path, text, room))
        })
        .flat_map(|(path, text, room)| match text.parse::<toml::Table>() {
            Err(error) => vec![Finding::hard(path, 1, format!("not TOML: {error}"))],
            Ok(manifest) => dependencies(&manifest)
                .filter(|name| {
                    let foreign_room = OURS.contains(name) && !room.ours.contains(name);
                    foreign_room || room.crates.contains(name)
                })
                .map(|name| {
                    let line = text.lines().position(|line| line.starts_with(name));
                    Finding::hard(
                        path,
                        line.unwrap_or_default() + 1,
                        format!("this room does not depend on `{name}`"),
                    )
                })
                .collect(),
        })
        .collect()
}

/// What it is built from; what only its tests need is their own affair.
fn dependencies(manifest: &toml::Table) -> impl Iterator<Item = &str> {
    manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::keys)
        .map(String::as_str)
}

/// Every path that is named, `use` trees taken apart, with its line.
fn paths(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if is_name(&tokens[at]) {
            path(tokens, at, "", &mut found)
        } else {
            at + 1
        };
    }
    found
}

/// Reads the path at `at` behind `prefix`; returns where it ends.
fn path(tokens: &[Token], at: usize, prefix: &str, found: &mut Vec<(String, usize)>) -> usize {
    let line = tokens[at].line;
    let mut whole = format!("{prefix}{}", tokens[at].text);
    let mut next = at + 1;
    while is_separator(tokens, next) {
        match tokens.get(next + 2) {
            Some(token) if is_name(token) => {
                whole = format!("{whole}::{}", token.text);
                next += 3;
            }
            Some(token) if token.text == "{" => {
                return branches(tokens, next + 3, &format!("{whole}::"), found);
            }
            _ => break,
        }
    }
    found.push((whole, line));
    next
}

/// Reads the branches of a `use` tree up to its closing brace; returns the place behind it.
fn branches(
    tokens: &[Token],
    mut at: usize,
    prefix: &str,
    found: &mut Vec<(String, usize)>,
) -> usize {
    while let Some(token) = tokens.get(at) {
        at = match token.text.as_str() {
            "}" => return at + 1,
            // A new name for what was just read.
            "as" => at + 2,
            _ if is_name(token) => path(tokens, at, prefix, found),
            _ => at + 1,
        };
    }
    at
}

fn is_separator(tokens: &[Token], at: usize) -> bool {
    let is_colon = |at: usize| tokens.get(at).is_some_and(|token| token.text == ":");
    is_colon(at) && is_colon(at + 1)
}

fn is_name(token: &Token) -> bool {
    token
        .text
        .starts_with(|c: char| c == '_' || c.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::texts;
    use std::collections::BTreeMap;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        texts(check, path, text)
            .into_iter()
            .map(|(_, line, _)| line)
            .collect()
    }

    #[test]
    fn a_use_tree_is_taken_apart() {
        let source = Source::parse(
            "a.rs",
            "use std::{\n    fs as files,\n    time::{Duration, Instant},\n};\nlet x = nix::unistd::getpid();\n",
        )
        .unwrap();

        let found = paths(source.tokens());

        for expected in [
            ("std::fs", 2),
            ("std::time::Duration", 3),
            ("std::time::Instant", 3),
            ("nix::unistd::getpid", 5),
        ] {
            assert!(
                found.contains(&(expected.0.to_owned(), expected.1)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_core_touches_no_world_but_its_tests_may() {
        let text = "use std::{collections::BTreeMap, fs};\n#[cfg(test)]\nmod tests {\n    use std::process;\n}\n";

        assert_eq!(lines("crates/runtime-core/src/a.rs", text), [1]);
        assert!(lines("crates/host/src/a.rs", text).is_empty());
    }

    #[test]
    fn a_machine_does_not_wait_read_clocks_or_iterate_in_random_order() {
        let text = "use std::collections::HashMap;\nasync fn a() {}\nfn b() { std::time::Instant::now(); }\nuse std::time::Duration;\n";

        assert_eq!(lines("crates/netns/src/machine.rs", text), [1, 3, 2]);
    }

    #[test]
    fn supervision_is_the_business_of_kit() {
        let text = "use actix::{prelude::*, Supervisor};\n";

        assert_eq!(lines("crates/store/src/actor.rs", text), [1]);
        assert!(lines("crates/runtime-core/src/kit/guard.rs", text).is_empty());
    }

    #[test]
    fn a_dependency_on_the_wrong_room_or_crate_is_found_and_one_of_a_test_is_not() {
        let manifest = "[dependencies]\nsled.workspace = true\nstore.workspace = true\nnix.workspace = true\n\n[dev-dependencies]\nstream.workspace = true\n";
        let tree = Tree::of(BTreeMap::from([(
            "crates/devices/Cargo.toml".to_owned(),
            manifest.to_owned(),
        )]))
        .unwrap();

        let lines: Vec<usize> = check_manifests(&tree)
            .into_iter()
            .map(|finding| finding.line)
            .collect();

        assert_eq!(lines, [2, 3]);
    }
}
