//! The version of a store's records and the steps that bring old ones up.
//!
//! The store keeps the version and runs the steps; what they change is the business of whoever
//! owns the records and passes the [`Schema`] in. Each step is applied together with its new
//! version number in one atomic batch, so a crash leaves either version, never a mixture.

use runtime_core::records::{Change, Rows};
use serde::{Deserialize, Serialize};
use std::error::Error as StdError;

/// Where the version record is: a key that no caller may write.
pub(crate) const VERSION_KEY: &str = "\0version";

/// What the caller's records look like today, and how older ones become so.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Version of the records that this program writes; 1 or more.
    pub version: u32,
    /// One step for every version below that can still be met.
    pub upgrades: &'static [Upgrade],
    /// Who writes, with its release: `hutchd 0.1.0`. Shown when an older program meets the store.
    pub written_by: &'static str,
}

/// One step, from version `from` to `from + 1`.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade {
    pub from: u32,
    /// What the step does, for the log and for its error.
    pub name: &'static str,
    /// From all records of the old version to the changes that make them new.
    pub run: fn(&Rows) -> Result<Vec<Change>, UpgradeRefused>,
}

/// A step met a record that it cannot read. The store stays as it was.
#[derive(Debug, thiserror::Error)]
#[error("record {key:?}")]
pub struct UpgradeRefused {
    pub key: String,
    pub source: Box<dyn StdError + Send + Sync>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    pub version: u32,
    pub written_by: String,
}

impl Schema {
    pub(crate) fn record(&self, version: u32) -> VersionRecord {
        VersionRecord {
            version,
            written_by: self.written_by.to_owned(),
        }
    }

    pub(crate) fn step_from(&self, version: u32) -> Option<&'static Upgrade> {
        self.upgrades.iter().find(|step| step.from == version)
    }
}

impl VersionRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a number and a string always encode")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
