//! What happened to processes, in the order in which it happened, kept until the host has recorded
//! it: exits, and kills for want of memory. Pure.
//!
//! Both share one row of numbers, so one acknowledgement is good for both. Exits are bounded by who
//! lets processes in; kills are bounded here: beyond [`KILLS_MAX`] a container's are only counted,
//! and get their numbers when there is room, so none is lost.

use crate::id::{Id, Name};
use std::collections::{BTreeMap, VecDeque};

/// Most exits and kills in one answer.
pub const ANSWER_MAX: usize = 256;
/// A container may make the kernel kill for ever; a host that is away finds that many at once, and
/// the rest after them.
pub const KILLS_MAX: usize = 1024;

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

/// The kernel killed a process of that container for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub seq: u64,
    pub container: Id,
    /// When it was found; guest realtime clock, milliseconds since the epoch.
    pub at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Exit(Exit),
    Kill(Kill),
}

impl Entry {
    pub fn seq(&self) -> u64 {
        match self {
            Self::Exit(exit) => exit.seq,
            Self::Kill(kill) => kill.seq,
        }
    }
}

/// Kills that have no number yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owed {
    count: u64,
    at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    kept: VecDeque<Entry>,
    kills: usize,
    owed: BTreeMap<Id, Owed>,
    last: u64,
}

impl Exits {
    pub fn push(&mut self, name: Name, ended: Ended) {
        let seq = self.number();
        self.kept.push_back(Entry::Exit(Exit { seq, name, ended }));
    }

    /// The kernel killed so many more processes of a container for want of memory.
    pub fn killed(&mut self, container: Id, count: u64, at_ms: u64) {
        let owed = self
            .owed
            .entry(container)
            .or_insert(Owed { count: 0, at_ms });
        owed.count = owed.count.saturating_add(count);
        self.settle();
    }

    /// Numbers what is owed, as far as there is room.
    fn settle(&mut self) {
        while self.kills < KILLS_MAX
            && let Some(mut first) = self.owed.first_entry()
        {
            let (container, at_ms) = (first.key().clone(), first.get().at_ms);
            first.get_mut().count -= 1;
            if first.get().count == 0 {
                first.remove();
            }
            let seq = self.number();
            self.kills += 1;
            self.kept.push_back(Entry::Kill(Kill {
                seq,
                container,
                at_ms,
            }));
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Exits that are kept.
    pub fn count(&self) -> usize {
        self.kept.len() - self.kills
    }

    /// The last number; zero before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What has a number above that, oldest first.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        let behind = self.kept.iter().skip_while(move |entry| entry.seq() <= seq);
        behind.take(ANSWER_MAX)
    }

    /// Forgets everything up to that number, and gives the exits of it back.
    pub fn acknowledge(&mut self, up_to: u64) -> Vec<Exit> {
        let known = self.kept.partition_point(|entry| entry.seq() <= up_to);
        let mut exits = Vec::new();
        for entry in self.kept.drain(..known) {
            match entry {
                Entry::Exit(exit) => exits.push(exit),
                Entry::Kill(_) => self.kills -= 1,
            }
        }
        self.settle();
        exits
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

    fn name(container: &str) -> Name {
        Name::parse(container.to_owned(), String::new()).unwrap()
    }

    fn id(container: &str) -> Id {
        Id::parse("container", container.to_owned()).unwrap()
    }

    fn three() -> Exits {
        let mut exits = Exits::default();
        for (container, code) in [("a", 1), ("b", 2), ("c", 3)] {
            exits.push(name(container), ended(code));
        }
        exits
    }

    fn seqs(exits: &Exits, after: u64) -> Vec<u64> {
        exits.after(after).map(Entry::seq).collect()
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

        exits.push(name("d"), ended(4));

        assert_eq!(seqs(&exits, 0), [4]);
        assert_eq!((exits.count(), exits.last()), (1, 4));
    }

    #[test]
    fn an_answer_is_bounded_and_the_next_goes_on_behind_it() {
        let mut exits = Exits::default();
        for _ in 0..ANSWER_MAX + 1 {
            exits.push(name("a"), ended(0));
        }

        assert_eq!(exits.after(0).count(), ANSWER_MAX);
        assert_eq!(seqs(&exits, ANSWER_MAX as u64), [ANSWER_MAX as u64 + 1]);
    }

    #[test]
    fn kills_share_the_numbers_of_the_exits_and_are_no_exits() {
        let mut exits = three();

        exits.killed(id("b"), 2, 70);
        exits.push(name("d"), ended(137));

        assert_eq!(seqs(&exits, 0), [1, 2, 3, 4, 5, 6]);
        assert_eq!(exits.count(), 4);
        let kill = exits.after(4).next().unwrap();
        assert!(matches!(kill, Entry::Kill(kill) if kill.container == id("b") && kill.at_ms == 70));
        assert_eq!(exits.acknowledge(5).len(), 3);
        assert_eq!((seqs(&exits, 0), exits.count()), (vec![6], 1));
    }

    #[test]
    fn kills_beyond_the_bound_are_counted_and_told_when_there_is_room() {
        let mut exits = Exits::default();
        let many = 2 * KILLS_MAX as u64 + 5;

        exits.killed(id("a"), many, 1);
        exits.killed(id("b"), 1, 2);

        assert_eq!(exits.last(), KILLS_MAX as u64);
        let mut told = Vec::new();
        while let Some(last) = exits.after(0).last().map(Entry::seq) {
            told.extend(exits.after(0).cloned());
            exits.acknowledge(last);
        }
        let of = |container: &str| {
            let kills = told.iter().filter(
                |entry| matches!(entry, Entry::Kill(kill) if kill.container == id(container)),
            );
            kills.count() as u64
        };
        assert_eq!((of("a"), of("b")), (many, 1));
        assert_eq!(
            exits,
            Exits {
                last: many + 1,
                ..Exits::default()
            }
        );
    }
}
