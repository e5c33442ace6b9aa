//! Which deletions were asked for, by their keys: what is begun is finished by the next daemon, and
//! what is done is answered again.
//!
//! A deletion is on record before its sandbox hears of it. One that failed changed nothing that a
//! repetition would not, so it is forgotten and may be tried again.

use super::events::Doomed;
use crate::{
    container::Force,
    ids::{EpochMs, RequestKey},
    kit::Waiter,
    records::{self, Change, Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Deletions kept for callers that ask again; a caller asks within the minutes for which it waits.
const KEPT_MAX: usize = 1024;

/// What the store keeps of a deletion that was begun or is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionRecord {
    /// In the order in which they were asked for.
    pub number: u64,
    pub key: RequestKey,
    pub doomed: Doomed,
    pub force: Force,
    pub at: EpochMs,
}

impl DeletionRecord {
    pub const PREFIX: &'static str = "deletion/";

    fn row(number: u64) -> String {
        format!("{}{number:016x}", Self::PREFIX)
    }
}

impl Record for DeletionRecord {
    const NAME: &'static str = "deletion record";
    const VERSION: u32 = 2;

    /// Version 1 knew deletions of containers alone.
    fn upgrade(from: u32, mut old: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        if from != 1 {
            return Err(UpgradeFailed { from });
        }
        old["doomed"] = serde_json::json!({ "container": old["place"] });
        Ok(old)
    }
}

/// By key; the ones under way have waiters besides the caller that began them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deletions {
    known: BTreeMap<u64, (DeletionRecord, Progress)>,
    numbered: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    UnderWay(Vec<Waiter>),
    /// Done, or left to this daemon by an earlier one.
    Resting,
}

/// What a key means that was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// The waiter hears what the first one hears.
    Joined,
    /// It is looked at anew: nothing may be left to do.
    Repeat(DeletionRecord),
}

impl Deletions {
    pub fn rebuilt(records: impl IntoIterator<Item = DeletionRecord>) -> Self {
        let known = records
            .into_iter()
            .map(|record| (record.number, (record, Progress::Resting)));
        let known: BTreeMap<_, _> = known.collect();
        let numbered = known.last_key_value().map_or(0, |(number, _)| number + 1);
        Self { known, numbered }
    }

    /// Those of an earlier daemon that are not done: what they are of is still there.
    pub fn take_up(&mut self, there: &BTreeSet<Doomed>) -> Vec<DeletionRecord> {
        let left = self.known.values_mut();
        let left = left.filter(|(record, _)| there.contains(&record.doomed));
        let begun = left.map(|(record, progress)| {
            *progress = Progress::UnderWay(Vec::new());
            record.clone()
        });
        begun.collect()
    }

    fn find(&mut self, key: &RequestKey) -> Option<&mut (DeletionRecord, Progress)> {
        self.known
            .values_mut()
            .find(|(record, _)| record.key == *key)
    }

    /// A key that is not new.
    pub fn again(&mut self, key: &RequestKey, waiter: Waiter) -> Option<Again> {
        let (record, progress) = self.find(key)?;
        match progress {
            Progress::UnderWay(waiters) => {
                waiters.push(waiter);
                Some(Again::Joined)
            }
            Progress::Resting => {
                let record = record.clone();
                *progress = Progress::UnderWay(Vec::new());
                Some(Again::Repeat(record))
            }
        }
    }

    /// On record before its sandbox hears of it; the oldest make room.
    pub fn begin(
        &mut self,
        key: RequestKey,
        doomed: Doomed,
        force: Force,
        at: EpochMs,
    ) -> Vec<Change> {
        let number = self.numbered;
        self.numbered += 1;
        let record = DeletionRecord {
            number,
            key,
            doomed,
            force,
            at,
        };
        let mut changes = vec![records::put(DeletionRecord::row(number), &record)];
        self.known
            .insert(number, (record, Progress::UnderWay(Vec::new())));
        if self.known.len() > KEPT_MAX {
            let resting = |(_, progress): &(_, _)| *progress == Progress::Resting;
            let oldest = self.known.iter().find(|(_, entry)| resting(entry));
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                self.known.remove(&oldest);
                changes.push(records::delete(DeletionRecord::row(oldest)));
            }
        }
        changes
    }

    /// Who else hears the outcome, and what changes on record.
    pub fn ended(&mut self, key: &RequestKey, done: bool) -> (Vec<Waiter>, Vec<Change>) {
        let Some((record, progress)) = self.find(key) else {
            return (Vec::new(), Vec::new());
        };
        let number = record.number;
        let waiters = match std::mem::replace(progress, Progress::Resting) {
            Progress::UnderWay(waiters) => waiters,
            Progress::Resting => Vec::new(),
        };
        let changes = match done {
            true => Vec::new(),
            false => {
                self.known.remove(&number);
                vec![records::delete(DeletionRecord::row(number))]
            }
        };
        (waiters, changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::Place,
        ids::{ContainerNumber, SandboxUid},
    };

    fn key(n: usize) -> RequestKey {
        RequestKey::new(format!("key-{n}")).expect("a key of letters and digits")
    }

    fn place() -> Doomed {
        Doomed::Container(Place {
            uid: SandboxUid::from_random(1),
            number: ContainerNumber(0),
        })
    }

    #[test]
    fn a_deletion_of_the_first_version_is_one_of_a_container() {
        let old = br#"{"v":1,"body":{"number":3,"key":"k","place":{"uid":"0000000000000001",
            "number":0},"force":"no","at":5}}"#;

        let record: DeletionRecord = crate::records::decode(old).expect("it reads");

        assert_eq!(record.doomed, place());
    }

    #[test]
    fn a_key_is_remembered_until_so_many_others_came() {
        let mut deletions = Deletions::default();
        for n in 0..=KEPT_MAX {
            deletions.begin(key(n), place(), Force::No, EpochMs(1));
            deletions.ended(&key(n), true);
        }

        assert_eq!(deletions.again(&key(0), Waiter(1)), None);
        assert!(deletions.again(&key(1), Waiter(2)).is_some());
        assert_eq!(deletions.known.len(), KEPT_MAX);
    }

    #[test]
    fn one_that_failed_may_be_tried_again() {
        let mut deletions = Deletions::default();
        deletions.begin(key(0), place(), Force::No, EpochMs(1));

        let (_, changes) = deletions.ended(&key(0), false);

        assert_eq!(changes, [records::delete("deletion/0000000000000000")]);
        assert_eq!(deletions.again(&key(0), Waiter(1)), None);
    }

    #[test]
    fn a_repetition_joins_the_one_under_way() {
        let mut deletions = Deletions::default();
        deletions.begin(key(0), place(), Force::No, EpochMs(1));

        assert_eq!(deletions.again(&key(0), Waiter(7)), Some(Again::Joined));
        let (waiters, _) = deletions.ended(&key(0), true);

        assert_eq!(waiters, [Waiter(7)]);
    }
}
