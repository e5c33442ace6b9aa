//! Makes a tree that programs look at equal to a new one beside it, so that nobody ever meets
//! something that is neither.
//!
//! The order, within one file system:
//! 1. folders that are new come in whole;
//! 2. links that changed are replaced, each by one rename: what a link points to is there by now;
//! 3. files and links that are new come in; files that changed are replaced, or written where they
//!    are if the host did so;
//! 4. what is a folder and was none, or the other way round, changes places with what was there;
//! 5. files and links that are gone go.
//!
//! A folder that is gone stays for a while: somebody may be on the way into it, or in it, and read
//! on. Whoever asked for all this takes it away later.

use crate::error::{Doing, Error};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

/// Two folders of one file system.
pub struct Places<'p> {
    /// What programs look at.
    pub shown: &'p Path,
    /// What it is to become; it is used up.
    pub next: &'p Path,
}

/// Paths below both trees, by what happens to them.
#[derive(Debug, Default)]
struct Changes {
    new_folders: Vec<PathBuf>,
    links: Vec<PathBuf>,
    others: Vec<PathBuf>,
    other_kinds: Vec<PathBuf>,
    gone: Vec<PathBuf>,
    gone_folders: Vec<PathBuf>,
    /// Folders that stay and have other attributes.
    folders: Vec<PathBuf>,
}

/// Gives the folders that are still there and are gone.
///
/// # Errors
/// The step that failed; what was done before it stays, and the next time does the rest.
pub fn replace(places: &Places<'_>, written: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let changes = compare(places)?;
    for path in changes.new_folders.iter().chain(&changes.links) {
        come_in(places, path)?;
    }
    for path in &changes.others {
        match written.contains(path) && fs::symlink_metadata(places.shown.join(path)).is_ok() {
            true => write_in_place(places, path)?,
            false => come_in(places, path)?,
        }
    }
    for path in &changes.other_kinds {
        let (new, old) = (places.next.join(path), places.shown.join(path));
        renameat_with(CWD, &new, CWD, &old, RenameFlags::EXCHANGE)
            .map_err(io::Error::from)
            .doing(|| format!("exchange {}", old.display()))?;
    }
    for path in &changes.gone {
        let shown = places.shown.join(path);
        fs::remove_file(&shown).doing(|| format!("remove {}", shown.display()))?;
    }
    for path in &changes.folders {
        let (new, old) = (places.next.join(path), places.shown.join(path));
        copy_attributes(&look(&new)?, &old)?;
    }
    Ok(changes.gone_folders)
}

fn look(path: &Path) -> Result<Metadata, Error> {
    fs::symlink_metadata(path).doing(|| format!("look at {}", path.display()))
}

fn compare(places: &Places<'_>) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let (next, shown) = (places.next.join(&folder), places.shown.join(&folder));
        if !same_attributes(&look(&next)?, &look(&shown)?) {
            changes.folders.push(folder.clone());
        }
        let wanted = names(&next)?;
        for name in &wanted {
            let path = folder.join(name);
            let new = look(&next.join(name))?;
            match fs::symlink_metadata(shown.join(name)) {
                Ok(old) if new.is_dir() && old.is_dir() => folders.push(path),
                Ok(old) if new.is_dir() != old.is_dir() => changes.other_kinds.push(path),
                Ok(old) if is_same(&next.join(name), &new, &shown.join(name), &old) => {}
                Ok(_) if new.is_symlink() => changes.links.push(path),
                Err(_) if new.is_dir() => changes.new_folders.push(path),
                Ok(_) | Err(_) => changes.others.push(path),
            }
        }
        for name in names(&shown)?.difference(&wanted) {
            let path = folder.join(name);
            match look(&shown.join(name))?.is_dir() {
                true => changes.gone_folders.push(path),
                false => changes.gone.push(path),
            }
        }
    }
    Ok(changes)
}

fn names(folder: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let list = || format!("list {}", folder.display());
    let entries = fs::read_dir(folder).doing(list)?;
    let names = entries.map(|entry| Ok(PathBuf::from(entry.doing(list)?.file_name())));
    names.collect()
}

fn same_attributes(one: &Metadata, other: &Metadata) -> bool {
    let of = |found: &Metadata| (found.mode(), found.uid(), found.gid());
    of(one) == of(other)
}

/// Neither is a folder. A file that has its time and its size has its contents: the host's time
/// comes with each copy.
fn is_same(new_path: &Path, new: &Metadata, old_path: &Path, old: &Metadata) -> bool {
    let timed = |found: &Metadata| (found.len(), found.mtime(), found.mtime_nsec());
    match (new.is_symlink(), old.is_symlink()) {
        (true, true) => fs::read_link(new_path).ok() == fs::read_link(old_path).ok(),
        (false, false) => same_attributes(new, old) && timed(new) == timed(old),
        (true, false) | (false, true) => false,
    }
}

fn come_in(places: &Places<'_>, path: &Path) -> Result<(), Error> {
    let shown = places.shown.join(path);
    fs::rename(places.next.join(path), &shown).doing(|| format!("rename to {}", shown.display()))
}

/// Whoever has it open sees it, as on the host.
fn write_in_place(places: &Places<'_>, path: &Path) -> Result<(), Error> {
    let (new, old) = (places.next.join(path), places.shown.join(path));
    let step = || format!("write {}", old.display());
    let contents = fs::read(&new).doing(step)?;
    let mut file = fs::OpenOptions::new().write(true).open(&old).doing(step)?;
    file.write_all(&contents).doing(step)?;
    file.set_len(contents.len() as u64).doing(step)?;
    drop(file);
    copy_attributes(&look(&new)?, &old)
}

/// Owner, access and, of a file, time: what a copy has of its original.
fn copy_attributes(from: &Metadata, to: &Path) -> Result<(), Error> {
    let step = || format!("set attributes of {}", to.display());
    lchown(to, Some(from.uid()), Some(from.gid())).doing(step)?;
    if from.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(to, fs::Permissions::from_mode(from.mode() & 0o7777)).doing(step)?;
    if from.is_dir() {
        return Ok(());
    }
    let time = from.modified().doing(step)?;
    let file = fs::File::open(to).doing(step)?;
    file.set_times(fs::FileTimes::new().set_modified(time))
        .doing(step)
}

/// A copy of a tree, in a folder that is not there yet.
///
/// # Errors
/// It cannot be read to its end, or written.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let step = || format!("copy {}", from.display());
    let found = look(from)?;
    if found.is_dir() {
        fs::create_dir(to).doing(step)?;
        for name in names(from)? {
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else if found.is_symlink() {
        symlink(fs::read_link(from).doing(step)?, to).doing(step)?;
    } else if found.is_file() {
        fs::copy(from, to).doing(step)?;
    } else {
        return Err(Error::Invalid {
            what: step(),
            why: "is neither a file, a folder nor a link",
        });
    }
    copy_attributes(&found, to)
}

#[cfg(test)]
mod tests;
