//! Processes as the host sees them: /proc, read once.

use anyhow::{Context, Result};
use nix::unistd::Pid;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// A process is its pid and when it started: pids come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub pid: i32,
    pub start: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub identity: Identity,
    pub parent: i32,
    pub session: i32,
    pub is_dead: bool,
    /// Its words, separated by blanks; its name in brackets where it has none.
    pub command: String,
}

impl Process {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.identity.pid)
    }

    /// The program's file, without its folder.
    pub fn program(&self) -> Option<String> {
        let exe = fs::read_link(format!("/proc/{}/exe", self.identity.pid)).ok()?;
        Some(exe.file_name()?.to_string_lossy().into_owned())
    }

    fn read(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let words = fs::read(folder.join("cmdline")).ok()?;
        Self::parse(&stat, &words)
    }

    /// A name may hold blanks and parentheses, so fields count from the last one.
    fn parse(stat: &str, words: &[u8]) -> Option<Self> {
        let (head, fields) = stat.rsplit_once(')')?;
        let (pid, name) = head.split_once('(')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let words: Vec<_> = words
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        Some(Self {
            identity: Identity {
                pid: pid.trim().parse().ok()?,
                start: fields.get(19)?.parse().ok()?,
            },
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            is_dead: matches!(*fields.first()?, "Z" | "X"),
            command: if words.is_empty() {
                format!("[{name}]")
            } else {
                words.join(" ")
            },
        })
    }
}

/// What a process was started with, word by word.
pub fn words(pid: Pid) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/cmdline");
    let bytes = fs::read(&path).with_context(|| format!("read {path}"))?;
    let words = bytes.split(|byte| *byte == 0);
    Ok(words
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect())
}

/// Every process that there is; one that goes meanwhile may be missing.
pub fn all() -> Result<Vec<Process>> {
    Ok(fs::read_dir("/proc")
        .context("list processes")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect())
}

/// Children of `root`, their children, and so on.
pub fn descendants(processes: &[Process], root: Pid) -> Vec<&Process> {
    let mut children: BTreeMap<i32, Vec<&Process>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut waiting = vec![root.as_raw()];
    while let Some(parent) = waiting.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            waiting.push(child.identity.pid);
            found.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn process(pid: i32, parent: i32) -> Process {
        Process {
            identity: Identity { pid, start: 1 },
            parent,
            session: 1,
            is_dead: false,
            command: String::new(),
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "12 (a) b (c) Z 7 12 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";

        let process = Process::parse(stat, b"").unwrap();

        assert_eq!(
            process.identity,
            Identity {
                pid: 12,
                start: 4711
            }
        );
        assert_eq!((process.parent, process.session), (7, 9));
        assert!(process.is_dead);
        assert_eq!(process.command, "[a) b (c]");
    }

    #[test]
    fn descendants_are_children_and_theirs_and_nobody_else() {
        let processes = [process(2, 1), process(3, 2), process(4, 3), process(5, 1)];

        let mut found: Vec<i32> = descendants(&processes, Pid::from_raw(2))
            .iter()
            .map(|process| process.identity.pid)
            .collect();
        found.sort_unstable();

        assert_eq!(found, [3, 4]);
    }

    #[test]
    fn a_child_of_ours_is_found_with_its_command() {
        let mut child = Command::new("sh")
            .args(["-c", "read line"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();

        let all = all().unwrap();
        let found: Vec<&str> = descendants(&all, Pid::this())
            .into_iter()
            .filter(|process| process.identity.pid == child.id().cast_signed())
            .map(|process| process.command.as_str())
            .collect();

        assert_eq!(found, ["sh -c read line"]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
