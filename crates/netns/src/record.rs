//! What the store keeps of a room: the namespace that is about to exist, or that exists.
//!
//! It is written before the namespace is made and deleted after it is gone. A namespace that the
//! caller lends leaves nothing to take away, and so no record.

use runtime_core::{
    ids::SandboxUid,
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Where the namespace of ours is, or is about to be.
    pub own: PathBuf,
}

impl NetworkRecord {
    /// The key of a sandbox's record.
    pub fn key(uid: SandboxUid) -> String {
        format!("network/{uid}")
    }
}

impl Record for NetworkRecord {
    const NAME: &'static str = "network record";
    const VERSION: u32 = 1;

    fn upgrade(from: u32, _: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        Err(UpgradeFailed { from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::records::decode;

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let old = br#"{"v":1,"body":{"own":"/run/hutch/s/0123456789abcdef/netns"}}"#;

        let record: NetworkRecord = decode(old).expect("this version was in use");

        assert_eq!(
            record.own,
            PathBuf::from("/run/hutch/s/0123456789abcdef/netns")
        );
    }
}
