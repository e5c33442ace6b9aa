//! How rooms keep records: the port to the store, and the envelope that carries a version.
//!
//! A record is JSON behind a version number. A record of an older version is upgraded step by
//! step when it is read; one of a newer version is refused by name.

use crate::{error::Fault, ids::SandboxUid, kit::Work};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

/// One change of the store. The changes of one write are applied together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

/// Keys and values as the store keeps them, in the order of the keys.
pub type Rows = Vec<(String, Vec<u8>)>;

/// The store, as rooms see it.
pub trait Records {
    /// Answers when the changes survive `kill -9` of any process. It does not fail: a daemon that
    /// cannot write its store ends, and its successor adopts what lives.
    fn write(&self, changes: Vec<Change>) -> Work<()>;

    /// Every record whose key begins with `prefix`, in the order of the keys.
    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>>;
}

/// A type that the store keeps.
pub trait Record: Serialize + DeserializeOwned {
    /// For errors: `sandbox record`.
    const NAME: &'static str;
    const VERSION: u32;

    /// Lifts the JSON of a record by one version, from `from` to `from + 1`.
    ///
    /// # Errors
    /// The JSON is not what that version wrote.
    fn upgrade(from: u32, old: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no upgrade from version {from}")]
pub struct UpgradeFailed {
    pub from: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum UnreadableRecord {
    #[error("{name} is not an envelope of version and body")]
    Envelope {
        name: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{name} has version {found}, newer than {known}: written by a newer hutchd")]
    Newer {
        name: &'static str,
        found: u32,
        known: u32,
    },
    #[error("upgrade {name}")]
    Upgrade {
        name: &'static str,
        #[source]
        source: UpgradeFailed,
    },
    #[error("{name} of version {version} does not read")]
    Body {
        name: &'static str,
        version: u32,
        #[source]
        source: serde_json::Error,
    },
    #[error("{name} was lost with a damaged store: {why}")]
    Lost { name: &'static str, why: String },
}

/// What the rooms of a sandbox keep: each key is one of these and the uid.
pub const ROOMS: [&str; 6] = [
    "sandbox",
    "container",
    "process",
    "hypervisor",
    "devices",
    "network",
];

/// The sandbox whose room keeps this key; `None`: no room of a sandbox does.
pub fn sandbox_of(key: &str) -> Option<SandboxUid> {
    let (room, rest) = key.split_once('/')?;
    let uid = rest.split('/').next()?;
    ROOMS.contains(&room).then(|| uid.parse().ok())?
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Envelope<T> {
    v: u32,
    body: T,
}

/// What stands in the place of a record that was lost, where what it was about may live: it keeps the key.
#[derive(serde::Serialize, serde::Deserialize)]
struct Lost {
    lost: String,
}

/// A `Put` under `key` that says why the record of it is lost. It never reads as a record.
pub fn lost(key: impl fmt::Display, why: impl fmt::Display) -> Change {
    let lost = Lost {
        lost: why.to_string(),
    };
    Change::Put {
        key: key.to_string(),
        value: serde_json::to_vec(&lost).expect("a text always serializes"),
    }
}

/// Whether [`lost`] wrote it.
pub fn is_lost(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Lost>(bytes).is_ok()
}

/// Bytes for the store.
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    serde_json::to_vec(&Envelope {
        v: R::VERSION,
        body: record,
    })
    .expect("records hold only maps with text keys, so they always serialize")
}

/// A `Put` of `record` under `key`.
pub fn put<R: Record>(key: impl fmt::Display, record: &R) -> Change {
    Change::Put {
        key: key.to_string(),
        value: encode(record),
    }
}

/// A `Delete` of `key`.
pub fn delete(key: impl fmt::Display) -> Change {
    Change::Delete {
        key: key.to_string(),
    }
}

/// Reads what [`encode`] wrote, now or in an older version.
///
/// # Errors
/// Lost, not an envelope, a newer version, or a body that does not fit its version.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, UnreadableRecord> {
    let name = R::NAME;
    let Envelope { v, mut body } = serde_json::from_slice::<Envelope<serde_json::Value>>(bytes)
        .map_err(|source| match serde_json::from_slice(bytes) {
            Ok(Lost { lost: why }) => UnreadableRecord::Lost { name, why },
            Err(_) => UnreadableRecord::Envelope { name, source },
        })?;
    if v > R::VERSION {
        return Err(UnreadableRecord::Newer {
            name,
            found: v,
            known: R::VERSION,
        });
    }
    for from in v..R::VERSION {
        body =
            R::upgrade(from, body).map_err(|source| UnreadableRecord::Upgrade { name, source })?;
    }
    serde_json::from_value(body).map_err(|source| UnreadableRecord::Body {
        name,
        version: v,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lamp {
        lumens: u32,
    }

    impl Record for Lamp {
        const NAME: &'static str = "lamp record";
        const VERSION: u32 = 2;

        fn upgrade(
            from: u32,
            mut old: serde_json::Value,
        ) -> Result<serde_json::Value, UpgradeFailed> {
            let watts = old.get("watts").and_then(serde_json::Value::as_u64);
            let watts = watts.filter(|_| from == 1).ok_or(UpgradeFailed { from })?;
            old["lumens"] = (watts * 15).into();
            Ok(old)
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let bytes = encode(&Lamp { lumens: 900 });

        assert_eq!(decode::<Lamp>(&bytes).unwrap(), Lamp { lumens: 900 });
    }

    #[test]
    fn a_record_of_an_older_version_is_upgraded() {
        let old = br#"{"v":1,"body":{"watts":60}}"#;

        assert_eq!(decode::<Lamp>(old).unwrap(), Lamp { lumens: 900 });
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name() {
        let newer = br#"{"v":3,"body":{}}"#;

        let error = decode::<Lamp>(newer).unwrap_err();

        assert_eq!(
            error.to_string(),
            "lamp record has version 3, newer than 2: written by a newer hutchd"
        );
    }

    #[test]
    fn what_stands_for_a_lost_record_says_so_and_is_no_record() {
        let Change::Put { key, value } = lost("lamp/1", "the lights went out") else {
            panic!("nothing stands for it");
        };

        let error = decode::<Lamp>(&value).unwrap_err();

        assert_eq!(key, "lamp/1");
        assert_eq!(
            error.to_string(),
            "lamp record was lost with a damaged store: the lights went out"
        );
        assert!(is_lost(&value));
        assert!(!is_lost(&encode(&Lamp { lumens: 900 })));
        assert!(!is_lost(b"{"));
    }
}
