//! Copies of small trees in the share, each whole, one after another.
//!
//! ```text
//!   tree/3/w7/turn            16 hexadecimal digits: the number of the newest copy
//!   tree/3/w7/<turn>/tree/    the copy; it does not change any more
//!   tree/3/w7/<turn>/written  paths that were written in place since the one before, each ended by NUL
//!   tree/3/w7/new/            a copy that is being made
//! ```
//!
//! The guest looks at `turn` and fetches what it has not got. `turn` is written in place: a file that is
//! renamed over another is hidden from a guest for as long as it believes its own directory cache.
//! The copy before the newest stays, since a guest may be fetching it.

use crate::{
    error::Error,
    mounts,
    steps::Bind,
    tree::{Tree, Unfit},
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

/// Somebody who changes a tree faster than it is read must come to rest some time.
const COPIES_MAX: usize = 8;

/// A tree of the host and the folder that holds its copies.
#[derive(Debug)]
pub struct Follow {
    source: PathBuf,
    place: PathBuf,
    /// What the newest copy was made of; unknown until one was made by us.
    last: Option<Tree>,
}

/// What became of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    Same,
    Copied,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::path(step, path)
}

impl Follow {
    pub fn new(bind: &Bind) -> Self {
        Self {
            source: bind.source.clone(),
            place: mounts::tree(&bind.folder).join(&bind.place),
            last: None,
        }
    }

    /// The folders of the tree, to hear of what changes in them.
    ///
    /// # Errors
    /// The tree is gone or cannot be copied.
    pub fn folders(&self) -> Result<Vec<OwnedFd>, Error> {
        let open = |why: Errno| failed("open", &self.source)(why.into());
        let source = open_tree(&self.source).map_err(open)?;
        let tree = scan(&self.source, &source)?;
        let folders = tree.folders(source.as_fd());
        folders.map_err(|why| unfit(&self.source, why))
    }

    /// Makes a copy if the tree is not as it was. The place must be there.
    ///
    /// # Errors
    /// The tree is gone or cannot be copied; the newest copy stays what it was.
    pub fn look(&mut self) -> Result<Looked, Error> {
        let source =
            open_tree(&self.source).map_err(|why| failed("open", &self.source)(why.into()))?;
        let turn = self.turn()?;
        let found = scan(&self.source, &source)?;
        let known = match (&self.last, turn) {
            (Some(last), _) => Some(last.clone()),
            (None, Some(turn)) => {
                // Made by an earlier daemon.
                let copy = self.place.join(name(turn)).join("tree");
                let copy = open_tree(&copy).map_err(|why| failed("open", &copy)(why.into()))?;
                Some(scan(&self.place, &copy)?)
            }
            (None, None) => None,
        };
        if known.is_some_and(|known| known.equals(&found)) {
            self.last = Some(found);
            return Ok(Looked::Same);
        }
        self.copy(&source, turn)
    }

    fn copy(&mut self, source: &OwnedFd, turn: Option<u64>) -> Result<Looked, Error> {
        let new = self.place.join("new");
        for _ in 0..COPIES_MAX {
            remove(&new)?;
            make_folder(&new)?;
            let copy = new.join("tree");
            make_folder(&copy)?;
            let before = scan(&self.source, source)?;
            let made = open_tree(&copy).map_err(|why| failed("open", &copy)(why.into()))?;
            let copied = before.copy(source.as_fd(), made.as_fd());
            // It changed while it was copied: what was read then is nobody's state.
            if scan(&self.source, source)? != before {
                continue;
            }
            copied.map_err(|why| unfit(&self.source, why))?;
            self.publish(&new, before, turn)?;
            return Ok(Looked::Copied);
        }
        Err(Error::Restless {
            path: self.source.clone(),
        })
    }

    fn publish(&mut self, new: &Path, tree: Tree, turn: Option<u64>) -> Result<(), Error> {
        let written = match &self.last {
            Some(last) => tree.written_since(last),
            None => Vec::new(),
        };
        let mut list = Vec::new();
        for path in written {
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        let file = new.join("written");
        fs::write(&file, list).map_err(failed("write", &file))?;
        let next = turn.map_or(0, |turn| turn + 1);
        let place = self.place.join(name(next));
        remove(&place)?;
        fs::rename(new, &place).map_err(failed("rename", new))?;
        self.set_turn(next)?;
        self.last = Some(tree);
        self.forget_before(next.saturating_sub(1))
    }

    /// The number of the newest copy.
    fn turn(&self) -> Result<Option<u64>, Error> {
        let path = self.place.join("turn");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(u64::from_str_radix(text.trim_end(), 16).ok()),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(failed("read", &path)(why)),
        }
    }

    fn set_turn(&self, turn: u64) -> Result<(), Error> {
        let path = self.place.join("turn");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        file.and_then(|file| file.write_all_at(name(turn).as_bytes(), 0))
            .map_err(failed("write", &path))
    }

    fn forget_before(&self, first: u64) -> Result<(), Error> {
        let list = || failed("list", &self.place);
        for entry in fs::read_dir(&self.place).map_err(list())? {
            let entry = entry.map_err(list())?;
            let number = entry.file_name().into_string().ok();
            let number = number.and_then(|name| u64::from_str_radix(&name, 16).ok());
            if number.is_some_and(|number| number < first) && entry.path().is_dir() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Of one width, so that a later one covers an earlier one.
fn name(turn: u64) -> String {
    format!("{turn:016x}")
}

/// Folders and links of every access are in it.
pub fn remove(place: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(place) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(failed("remove", place)(why)),
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    made.map_err(failed("make folder", path))
}

/// Resolved before: a link anywhere in it was put there since.
pub fn open_tree(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn scan(path: &Path, root: &OwnedFd) -> Result<Tree, Error> {
    Tree::scan(root.as_fd()).map_err(|why| unfit(path, why))
}

fn unfit(path: &Path, why: Unfit) -> Error {
    Error::Unfit {
        path: path.to_owned(),
        why,
    }
}
