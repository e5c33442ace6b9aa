//! What happened in a sandbox, numbered: what `hutch sandbox monitor` shows.
//!
//! It is part of the sandbox's record, so numbers go on where they were after a restart of the
//! daemon, and whoever watches misses nothing that is not older than the last few.

use super::rules::Standing;
use crate::{agent::ExitStatus, ids::ContainerId};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Whoever watches asks again at once; a hundred containers that end together are more than this,
/// and each has its exit on its own record.
pub const KEPT_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Journal {
    numbered: u64,
    last: VecDeque<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub number: u64,
    pub happened: Happening,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    State {
        standing: Standing,
        /// Why it ends; empty while all is well.
        reason: String,
    },
    Exited {
        container: ContainerId,
        status: ExitStatus,
    },
}

impl Journal {
    pub fn note(&mut self, happened: Happening) {
        self.numbered += 1;
        let number = self.numbered;
        self.last.push_back(Entry { number, happened });
        if self.last.len() > KEPT_MAX {
            self.last.pop_front();
        }
    }

    /// Those with a higher number, the oldest first.
    pub fn after(&self, number: u64) -> Vec<Entry> {
        let later = self.last.iter().filter(|entry| entry.number > number);
        later.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_numbered_without_gaps_and_the_oldest_make_room() {
        let mut journal = Journal::default();
        let ready = || Happening::State {
            standing: Standing::Ready,
            reason: String::new(),
        };
        for _ in 0..KEPT_MAX + 2 {
            journal.note(ready());
        }

        let numbers: Vec<_> = journal.after(0).iter().map(|entry| entry.number).collect();

        assert_eq!(numbers, (3..=KEPT_MAX as u64 + 2).collect::<Vec<_>>());
        assert!(journal.after(KEPT_MAX as u64 + 2).is_empty());
    }
}
