//! The port of the Store actor: what it asks of whatever keeps the bytes.
//!
//! [`crate::SledStore`] and [`crate::fake::FakeDisk`] implement it; both pass
//! `tests/contract.rs`. It says nothing about what the bytes mean.

use crate::Error;
use runtime_core::{
    kit::Work,
    records::{Change, Rows},
};
use std::{sync::Arc, time::Duration};

/// Longest key: a kind, a uid and a number, of an exec with its id, which has at most a kilobyte.
pub const KEY_BYTES_MAX: usize = 2048;
/// Longest value. The record of a container carries its config.json, of at most 2 MiB and twice that with every quote
/// escaped, and what was made of it; that of a sandbox's devices has a bound of 8 MiB of its own.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most changes of one write: a write is one atomic batch, held in memory.
pub const CHANGES_MAX: usize = 4096;
/// How much of a refused key its error shows.
const KEY_CHARS_SHOWN: usize = 64;
/// First character of the keys that the store keeps for itself.
pub(crate) const RESERVED: char = '\0';

/// What a write must survive before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Durability {
    /// kill -9 of any process: the kernel has the bytes.
    #[default]
    Kill,
    /// Loss of power: the disk has the bytes.
    PowerLoss,
}

/// Exact figures since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Writes answered as durable.
    pub writes: u64,
    /// Puts and deletes in them.
    pub changes: u64,
    /// Key and value bytes in them.
    pub bytes: u64,
    /// Flushes that made them durable; fewer than `writes` where writes met.
    pub flushes: u64,
    /// Real syncs of the disk among the flushes.
    pub syncs: u64,
    /// Scans answered.
    pub scans: u64,
    /// Spent making writes durable.
    pub busy: Duration,
}

/// Keeps bytes. Requests are served in the order in which they were made.
pub trait Disk {
    /// Applies all changes or none, in line with all other requests, and answers when they are
    /// durable. The request is in line when the call returns, or when its future is first
    /// polled if the line was full.
    fn write(&self, changes: Arc<[Change]>, durability: Durability) -> Work<Result<(), Error>>;

    /// Every record whose key begins with `prefix`, in the order of the keys, as of all writes
    /// requested before; those are durable when the answer comes.
    fn scan(&self, prefix: String) -> Work<Result<Rows, Error>>;

    fn figures(&self) -> Figures;
}

pub(crate) fn size_bytes(changes: &[Change]) -> usize {
    let size = |change: &Change| match change {
        Change::Put { key, value } => key.len() + value.len(),
        Change::Delete { key } => key.len(),
    };
    changes.iter().map(size).sum()
}

/// Refuses what no store takes; the real one and the fake both ask here.
///
/// # Errors
/// Names the first change that breaks a bound.
pub(crate) fn check(changes: &[Change]) -> Result<(), Error> {
    match changes.len() {
        0..=CHANGES_MAX => changes.iter().try_for_each(check_change),
        changes => Err(Error::TooManyChanges { changes }),
    }
}

pub(crate) fn check_change(change: &Change) -> Result<(), Error> {
    let (key, value_bytes) = match change {
        Change::Put { key, value } => (key, value.len()),
        Change::Delete { key } => (key, 0),
    };
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.starts_with(RESERVED) {
        return Err(Error::KeyRefused {
            key: key.chars().take(KEY_CHARS_SHOWN).collect(),
            bytes: key.len(),
        });
    }
    if value_bytes > VALUE_BYTES_MAX {
        return Err(Error::ValueTooLarge {
            key: key.clone(),
            bytes: value_bytes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::{
        ids::{ContainerNumber, ExecId, ProcessId, SandboxUid},
        process::ProcessRecord,
    };

    fn put(key: impl Into<String>, bytes: usize) -> Change {
        Change::Put {
            key: key.into(),
            value: vec![0; bytes],
        }
    }

    fn delete(key: impl Into<String>) -> Change {
        Change::Delete { key: key.into() }
    }

    /// A change that is refused ends the daemon: no caller may ask for one.
    #[test]
    fn the_longest_id_that_is_taken_makes_a_key_that_is() {
        let longest = ExecId::new("x".repeat(1024)).unwrap();
        let (uid, container) = (SandboxUid::from_random(u64::MAX), ContainerNumber(u32::MAX));
        let key = ProcessRecord::key(uid, container, &ProcessId::Exec(longest));

        assert!(check(&[put(key, 1)]).is_ok());
    }

    #[test]
    fn keys_of_the_store_itself_and_empty_keys_are_refused() {
        assert!(matches!(
            check(&[put("", 1)]),
            Err(Error::KeyRefused { bytes: 0, .. })
        ));
        assert!(matches!(
            check(&[delete("\0version")]),
            Err(Error::KeyRefused { .. })
        ));
        assert!(check(&[put("version\0", 1)]).is_ok());
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused_and_what_is_at_it_is_not() {
        assert!(check(&[put("k".repeat(KEY_BYTES_MAX), VALUE_BYTES_MAX)]).is_ok());
        assert!(check(&[put("k".repeat(KEY_BYTES_MAX + 1), 1)]).is_err());
        assert!(check(&[put("k", VALUE_BYTES_MAX + 1)]).is_err());
        assert!(check(&vec![delete("k"); CHANGES_MAX]).is_ok());
        assert!(check(&vec![delete("k"); CHANGES_MAX + 1]).is_err());
    }
}
