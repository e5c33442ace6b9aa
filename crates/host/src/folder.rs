//! Sandbox folders: making one that only its owner may enter, and removing a tree that a guest
//! may have filled, without following a link and without entering a mount.
//!
//! A container's root is bind-mounted below its sandbox's folder: a removal that entered a mount
//! would empty the user's own files.

use crate::{Doing, Error};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat,
        openat2, renameat, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};
use std::{
    ffi::{CStr, CString, OsStr},
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// A guest may nest folders without end; each level costs a file descriptor here. Below this one
/// a folder is carried to the top and emptied from there.
const LEVELS_MAX: usize = 64;
/// Entries that come into a folder while it is emptied are met in the next pass; who is still
/// writing after so many is alive, and was to be killed first.
const PASSES_MAX: usize = 16;

/// Makes the folder, for its owner alone. One that exists is already so if it is ours.
///
/// # Errors
/// Something else is there.
pub fn make(path: &Path) -> Result<(), Error> {
    let failed = |errno: Errno| Error::path(Doing::MakeFolder, path)(errno.into());
    if let Some(parent) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(parent);
        made.map_err(Error::path(Doing::MakeFolder, parent))?;
    }
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let folder = match openat(CWD, path, folder_flags(), Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(Error::NotAFolder {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(failed(errno)),
    };
    if fstat(&folder).map_err(failed)?.st_uid != geteuid().as_raw() {
        return Err(Error::NotAFolder {
            path: path.to_owned(),
        });
    }
    // The umask may have taken something; an earlier life may have left something.
    fchmod(&folder, Mode::RWXU).map_err(failed)
}

/// Removes whatever is at `path`, and everything below it. What is not there is already so.
///
/// # Errors
/// A mount is in the way: it stays, and so does what holds it.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotAFolder {
            path: path.to_owned(),
        });
    };
    let parent = match openat(
        CWD,
        parent,
        folder_flags() - OFlags::NOFOLLOW,
        Mode::empty(),
    ) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(Error::path(Doing::RemoveTree, parent)(errno.into())),
    };
    let removal = Removal { path };
    let name = c_name(name).map_err(|errno| removal.failed(errno))?;
    if removal.unlink(&parent, &name)? == Unlinked::IsFolder {
        removal.empty(&parent, &name)?;
        removal.remove_folder(&parent, &name)?;
    }
    Ok(())
}

/// One removal, for its errors.
struct Removal<'a> {
    path: &'a Path,
}

#[derive(Debug, PartialEq, Eq)]
enum Unlinked {
    Gone,
    IsFolder,
}

/// A folder on the way down, and its entries that are still to be looked at.
struct Level {
    folder: OwnedFd,
    name: CString,
    entries: Vec<CString>,
}

impl Removal<'_> {
    /// Empties the folder `name` of `parent`, with a stack of its own: how deep a guest can nest
    /// must not be how deep we can recurse.
    fn empty(&self, parent: &OwnedFd, name: &CStr) -> Result<(), Error> {
        for _ in 0..PASSES_MAX {
            let Some(top) = self.enter(parent, name)? else {
                return Ok(());
            };
            if top.entries.is_empty() {
                return Ok(());
            }
            self.empty_once(top)?;
        }
        Ok(())
    }

    fn empty_once(&self, top: Level) -> Result<(), Error> {
        let mut carried = 0_u64;
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.entries.pop() else {
                let done = levels.pop().expect("the last level was there");
                if let Some(above) = levels.last() {
                    self.remove_emptied(&above.folder, &done.name)?;
                }
                continue;
            };
            if self.unlink(&level.folder, &entry)? == Unlinked::Gone {
                continue;
            }
            let next = self.enter(&level.folder, &entry)?;
            if levels.len() < LEVELS_MAX {
                levels.extend(next);
            } else if next.is_some_and(|next| !next.entries.is_empty()) {
                carried += 1;
                self.carry_up(&mut levels, &entry, carried)?;
            } else {
                let level = levels.last().expect("the stack is full");
                self.remove_emptied(&level.folder, &entry)?;
            }
        }
        Ok(())
    }

    /// Moves a folder that is too deep into the topmost one, where it is met again.
    fn carry_up(&self, levels: &mut [Level], entry: &CStr, number: u64) -> Result<(), Error> {
        let (top, rest) = levels.split_first_mut().expect("the stack is full");
        let from = rest.last().expect("the stack is full");
        let new = (0..).find_map(|attempt: u64| {
            let name = CString::new(format!(".carried-{number}-{attempt}")).ok()?;
            let stat = statat(&top.folder, &name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_err().then_some(name)
        });
        let new = new.expect("a folder does not hold every name");
        renameat(&from.folder, entry, &top.folder, &new).map_err(|errno| self.failed(errno))?;
        top.entries.push(new);
        Ok(())
    }

    /// Opens a folder without following a link or entering a mount. `None`: it went.
    fn enter(&self, parent: &OwnedFd, name: &CStr) -> Result<Option<Level>, Error> {
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let folder = match openat2(parent, name, folder_flags(), Mode::empty(), resolve) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => {
                return Err(Error::MountPoint {
                    path: self.path.join(OsStr::from_bytes(name.to_bytes())),
                });
            }
            Err(errno) => return Err(self.failed(errno)),
        };
        let entries = names(folder.as_fd()).map_err(|errno| self.failed(errno))?;
        Ok(Some(Level {
            folder,
            name: name.to_owned(),
            entries,
        }))
    }

    fn unlink(&self, parent: &OwnedFd, name: &CStr) -> Result<Unlinked, Error> {
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Unlinked::Gone),
            Err(errno) => return Err(self.failed(errno)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Ok(Unlinked::IsFolder);
            }
            Ok(_) => {}
        }
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(Unlinked::Gone),
            Err(Errno::BUSY) => Err(Error::MountPoint {
                path: self.path.join(OsStr::from_bytes(name.to_bytes())),
            }),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// A folder that got an entry meanwhile stays for the next pass.
    fn remove_emptied(&self, parent: &OwnedFd, name: &CStr) -> Result<(), Error> {
        match self.rmdir(parent, name) {
            Err(Errno::NOTEMPTY) => Ok(()),
            verdict => verdict.map_err(|errno| self.failed(errno)),
        }
    }

    fn remove_folder(&self, parent: &OwnedFd, name: &CStr) -> Result<(), Error> {
        match self.rmdir(parent, name) {
            Err(Errno::BUSY) => Err(Error::MountPoint {
                path: self.path.to_owned(),
            }),
            verdict => verdict.map_err(|errno| self.failed(errno)),
        }
    }

    fn rmdir(&self, parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            verdict => verdict,
        }
    }

    fn failed(&self, errno: Errno) -> Error {
        Error::path(Doing::RemoveTree, self.path)(errno.into())
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn names(folder: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn c_name(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

/// Names in a folder, sorted; none of one that is not there.
///
/// # Errors
/// It does not read.
pub fn list(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = Error::path(Doing::ListFolder, path);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::{UnmountFlags, mount_bind, unmount};
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Mounted(PathBuf);

    impl Mounted {
        fn bind(from: &Path, to: &Path) -> Self {
            mount_bind(from, to).unwrap();
            Self(to.to_owned())
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            unmount(&self.0, UnmountFlags::DETACH).unwrap();
        }
    }

    fn two_folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let (tree, user) = (place.path().join("tree"), place.path().join("user"));
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&user).unwrap();
        fs::write(user.join("precious"), "data").unwrap();
        (place, tree, user)
    }

    #[test]
    fn a_folder_is_made_for_its_owner_alone_and_again_is_already_so() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("s/0123456789abcdef");

        make(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        make(&folder).unwrap();

        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn a_link_or_a_file_is_not_taken_for_a_folder() {
        let (place, tree, _user) = two_folders();
        let link = place.path().join("link");
        symlink(&tree, &link).unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();

        for path in [&link, &file] {
            assert!(matches!(make(path), Err(Error::NotAFolder { .. })));
        }
    }

    #[test]
    fn a_tree_goes_with_everything_in_it_and_again_is_already_so() {
        let (_place, tree, user) = two_folders();
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();

        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree.join("below/what/is/gone")).unwrap();

        assert!(!tree.exists());
        assert!(user.exists());
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let (place, tree, user) = two_folders();
        symlink(&user, tree.join("link")).unwrap();
        let link = place.path().join("to-user");
        symlink(&user, &link).unwrap();

        remove_tree(&tree).unwrap();
        remove_tree(&link).unwrap();

        assert!(link.symlink_metadata().is_err());
        assert_eq!(fs::read(user.join("precious")).unwrap(), b"data");
    }

    #[test]
    fn a_mount_is_not_entered_even_one_of_the_same_file_system() {
        let (_place, tree, user) = two_folders();
        fs::create_dir_all(tree.join("share/root")).unwrap();
        fs::write(tree.join("file"), "").unwrap();
        let folder = Mounted::bind(&user, &tree.join("share/root"));
        let file = Mounted::bind(&user.join("precious"), &tree.join("file"));

        for _ in 0..2 {
            let removed = remove_tree(&tree);
            assert!(
                matches!(removed, Err(Error::MountPoint { .. })),
                "{removed:?}"
            );
        }

        assert_eq!(fs::read(user.join("precious")).unwrap(), b"data");
        drop((folder, file));
        remove_tree(&tree).unwrap();
        assert_eq!(fs::read(user.join("precious")).unwrap(), b"data");
    }

    #[test]
    fn mounts_are_detached_from_the_last_to_the_first_stacked_ones_too() {
        let (_place, tree, user) = two_folders();
        fs::create_dir_all(tree.join("a b")).unwrap();
        fs::create_dir(user.join("inner")).unwrap();
        let point = tree.join("a b");
        mount_bind(&tree, &tree).unwrap();
        mount_bind(&user, &point).unwrap();
        mount_bind(&user, &point).unwrap();
        mount_bind(&user, point.join("inner")).unwrap();
        let held = fs::File::open(point.join("inner/precious")).unwrap();

        let detached = crate::mounts::detach_below(&tree).unwrap();

        assert!(detached.len() >= 3, "{detached:?}");
        assert!(crate::mounts::below(&tree).unwrap().is_empty());
        drop(held);
        remove_tree(&tree).unwrap();
        assert_eq!(fs::read(user.join("precious")).unwrap(), b"data");
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes_with_few_file_descriptors() {
        const DEPTH: usize = 3000;
        let (place, tree, _user) = two_folders();
        let mut folder = openat(CWD, &tree, folder_flags(), Mode::empty()).unwrap();
        for level in 0..DEPTH {
            mkdirat(&folder, "d", Mode::RWXU).unwrap();
            if level % 100 == 0 {
                let flags = OFlags::CREATE | OFlags::WRONLY;
                openat(&folder, "file", flags, Mode::RUSR).unwrap();
                mkdirat(&folder, "empty", Mode::RWXU).unwrap();
            }
            folder = openat(&folder, "d", folder_flags(), Mode::empty()).unwrap();
        }

        remove_tree(&tree).unwrap();

        assert!(!tree.exists());
        drop(place);
    }
}
