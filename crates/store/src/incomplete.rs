//! The mark beside a store that took the place of a damaged one: what was in that is not all in this one yet.
//!
//! A store that has just been made is whole and sound, and whoever finds it cannot see what is missing. A daemon that
//! dies while it restores the records from elsewhere would leave its successor with half of them, and the other half's
//! VMs would be swept as nobody's. So the mark is on the disk before the damaged store is moved, and stays until somebody
//! says that all is restored. Its lines name where damaged stores are kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".incomplete";

/// A store that lacks what a damaged one held.
#[derive(Debug)]
#[must_use = "until it is over, every opening of the store says so"]
pub struct Incomplete {
    mark: PathBuf,
    kept: Vec<PathBuf>,
}

impl Incomplete {
    fn mark(store: &Path) -> PathBuf {
        let mut name = store.as_os_str().to_owned();
        name.push(SUFFIX);
        name.into()
    }

    /// Marks the store, which is about to be kept at `kept`; it is on the disk then.
    pub(crate) fn begin(store: &Path, kept: &Path) -> io::Result<()> {
        let mark = Self::mark(store);
        let options = &mut OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o600).open(&mark)?;
        file.write_all(&[kept.as_os_str().as_bytes(), b"\n"].concat())?;
        file.sync_all()?;
        sync_folder_of(&mark)
    }

    /// `None`: the store lacks nothing.
    pub(crate) fn found(store: &Path) -> io::Result<Option<Self>> {
        let mark = Self::mark(store);
        match fs::read(&mark) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let mut kept: Vec<_> = text.lines().map(PathBuf::from).collect();
                // A move that was cut off is made again, to the same place.
                kept.dedup();
                Ok(Some(Self { mark, kept }))
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Where the damaged stores were moved to, the last one last. One whose move was cut off is not there.
    pub fn kept(&self) -> &[PathBuf] {
        &self.kept
    }

    /// Everything that could be restored is in the store, and survives the end of any process. Blocks.
    ///
    /// # Errors
    /// The mark cannot be taken away: the next opening finds it.
    pub fn is_over(self) -> io::Result<()> {
        match fs::remove_file(&self.mark) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            Ok(()) | Err(_) => sync_folder_of(&self.mark),
        }
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stays_until_it_is_over_and_names_every_damaged_store() {
        let place = tempfile::tempdir().unwrap();
        let store = place.path().join("store");
        assert!(Incomplete::found(&store).unwrap().is_none());

        Incomplete::begin(&store, Path::new("/a")).unwrap();
        Incomplete::begin(&store, Path::new("/b c")).unwrap();

        for _ in ["once", "again"] {
            let found = Incomplete::found(&store).unwrap().unwrap();
            assert_eq!(found.kept(), [Path::new("/a"), Path::new("/b c")]);
        }
        let found = Incomplete::found(&store).unwrap().unwrap();
        found.is_over().unwrap();
        assert!(Incomplete::found(&store).unwrap().is_none());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
