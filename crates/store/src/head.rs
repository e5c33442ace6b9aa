//! The head file: which engine keeps the store, and how many groups of writes it acknowledged.
//!
//! sled recovers from damage in the middle of its log by forgetting what comes after it, without
//! a word. A store that forgot an acknowledged write is damaged: a sweeper that believed it would
//! kill living VMs. So each group of writes carries its number, and the number of the last
//! acknowledged one is noted here, after its flush and before its answers. The note is never
//! synced to disk: it is compared within one boot only.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Where the number of the last group is inside the engine: a key that no caller may write.
pub(crate) const GROUP_KEY: &str = "\0group";
pub(crate) const ENGINE: &str = "sled-0.34";
const NAME: &str = "head";

/// What an earlier opening left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub engine: String,
    pub boot_id: String,
    pub acknowledged: u64,
}

/// The file, open for notes.
#[derive(Debug)]
pub(crate) struct HeadFile {
    file: File,
    boot_id: String,
}

impl Head {
    /// A missing or unreadable note claims nothing.
    pub(crate) fn read(store: &Path) -> Option<Self> {
        let text = fs::read_to_string(store.join(NAME)).ok()?;
        let mut words = text.split_whitespace();
        let head = Self {
            engine: words.next()?.to_owned(),
            boot_id: words.next()?.to_owned(),
            acknowledged: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(head)
    }
}

impl HeadFile {
    pub(crate) fn open(store: &Path, boot_id: String) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(store.join(NAME))?;
        Ok(Self { file, boot_id })
    }

    pub(crate) fn note(&self, acknowledged: u64) -> io::Result<()> {
        // Always the same length: one write replaces the line whole.
        let line = format!("{ENGINE} {} {acknowledged:020}\n", self.boot_id);
        self.file.write_all_at(line.as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_note_is_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = HeadFile::open(folder.path(), "boot".into()).unwrap();

        file.note(u64::MAX).unwrap();
        file.note(7).unwrap();

        assert_eq!(
            Head::read(folder.path()),
            Some(Head {
                engine: ENGINE.into(),
                boot_id: "boot".into(),
                acknowledged: 7,
            })
        );
    }

    #[test]
    fn a_garbled_note_claims_nothing() {
        let folder = tempfile::tempdir().unwrap();

        for text in ["", "sled-0.34 boot", "sled-0.34 boot seven", "a b 1 d"] {
            fs::write(folder.path().join(NAME), text).unwrap();
            assert_eq!(Head::read(folder.path()), None, "{text:?}");
        }
    }
}
