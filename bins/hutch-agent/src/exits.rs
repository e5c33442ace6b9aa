//! Exits in the order in which they happened, kept until the host has recorded them. Pure.

use crate::id::Name;
use std::collections::VecDeque;

/// Most exits in one answer.
pub const ANSWER_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Exited,
    Signaled,
    Oom,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, or 128 and the signal.
    pub code: u32,
    pub reason: Reason,
    /// Guest realtime clock, milliseconds since the epoch.
    pub at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub seq: u64,
    pub name: Name,
    pub ended: Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    kept: VecDeque<Exit>,
    last: u64,
}

impl Exits {
    pub fn push(&mut self, name: Name, ended: Ended) {
        self.last += 1;
        let seq = self.last;
        self.kept.push_back(Exit { seq, name, ended });
    }

    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Number of the last exit; zero before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Exits with a number above that, oldest first.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Exit> {
        let behind = self.kept.iter().skip_while(move |exit| exit.seq <= seq);
        behind.take(ANSWER_MAX)
    }

    /// Forgets every exit up to that number, and gives them back.
    pub fn acknowledge(&mut self, up_to: u64) -> Vec<Exit> {
        let known = self
            .kept
            .iter()
            .take_while(|exit| exit.seq <= up_to)
            .count();
        self.kept.drain(..known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: u32) -> Ended {
        Ended {
            code,
            reason: Reason::Exited,
            at_ms: 1,
        }
    }

    fn three() -> Exits {
        let mut exits = Exits::default();
        for (name, code) in [("a", 1), ("b", 2), ("c", 3)] {
            let name = Name::parse(name.to_owned(), String::new()).unwrap();
            exits.push(name, ended(code));
        }
        exits
    }

    fn seqs(exits: &Exits, after: u64) -> Vec<u64> {
        exits.after(after).map(|exit| exit.seq).collect()
    }

    #[test]
    fn exits_are_numbered_from_one_and_kept_until_acknowledged() {
        let mut exits = three();

        assert_eq!(seqs(&exits, 0), [1, 2, 3]);
        assert_eq!(seqs(&exits, 2), [3]);
        assert_eq!(seqs(&exits, 9), [0; 0]);

        assert_eq!(exits.acknowledge(2).len(), 2);
        assert_eq!(seqs(&exits, 0), [3]);
        assert_eq!(exits.acknowledge(2), []);
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut exits = three();
        exits.acknowledge(u64::MAX);

        exits.push(
            Name::parse("d".to_owned(), String::new()).unwrap(),
            ended(4),
        );

        assert_eq!(seqs(&exits, 0), [4]);
        assert_eq!((exits.count(), exits.last()), (1, 4));
    }

    #[test]
    fn an_answer_is_bounded_and_the_next_goes_on_behind_it() {
        let mut exits = Exits::default();
        for _ in 0..ANSWER_MAX + 1 {
            exits.push(
                Name::parse("a".to_owned(), String::new()).unwrap(),
                ended(0),
            );
        }

        assert_eq!(exits.after(0).count(), ANSWER_MAX);
        assert_eq!(seqs(&exits, ANSWER_MAX as u64), [ANSWER_MAX as u64 + 1]);
    }
}
