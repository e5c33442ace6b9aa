//! Paths of an image, resolved as the container will see them.
//!
//! An image is not trusted: its links may point anywhere. Every path goes through openat2 with
//! the image as root, so a link cannot lead out of it, and /proc's magic links lead nowhere.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat},
    io::Errno,
};

/// As many links as the kernel follows in one path.
const LINKS_MAX: u32 = 40;
/// A rename anywhere in the guest can make the kernel give up on a path with `..`, and it asks
/// to be called again; that many at once do not happen by chance.
const RETRIES_MAX: u32 = 128;

/// The image's root folder.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Followed inside the image.
    Followed,
    Refused,
}

impl Root {
    /// # Errors
    /// What openat says.
    pub fn open(path: &str) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).map(|fd| Self { fd })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A handle of what is there; not open for reading.
    ///
    /// # Errors
    /// What openat2 says.
    pub fn find(&self, path: &str, links: Links) -> Result<OwnedFd, Errno> {
        let mut how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refused {
            how |= ResolveFlags::NO_SYMLINKS;
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mut left = RETRIES_MAX;
        loop {
            match openat2(&self.fd, path, flags, Mode::empty(), how) {
                Err(Errno::AGAIN) if left > 0 => left -= 1,
                found => return found,
            }
        }
    }

    /// A handle of what is there, made with all its parents if nothing is.
    ///
    /// # Errors
    /// What the kernel says about any of them.
    pub fn find_or_make(&self, path: &str, kind: Kind) -> Result<OwnedFd, Errno> {
        match self.find(path, Links::Followed) {
            Err(Errno::NOENT) => self.make(path, kind, LINKS_MAX),
            found => found,
        }
    }

    /// The folder that a path lies in, made if it is missing, and the last name of the path.
    ///
    /// # Errors
    /// What the kernel says; EINVAL for a path without a last name.
    pub fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let (parent, name) = split(path)?;
        Ok((self.find_or_make(parent, Kind::Folder)?, name))
    }

    fn make(&self, path: &str, kind: Kind, links_left: u32) -> Result<OwnedFd, Errno> {
        // What is missing cannot be climbed out of, so a `..` takes back the name before it.
        let path = &clean(path);
        let (parent, name) = split(path)?;
        let folder = match self.find(parent, Links::Followed) {
            Err(Errno::NOENT) => self.make(parent, Kind::Folder, links_left)?,
            found => found?,
        };
        match make_entry(folder.as_fd(), name, kind) {
            // A link whose target is missing: the target is what has to be made.
            Err(Errno::EXIST) => match readlinkat(&folder, name, Vec::new()) {
                Ok(target) => {
                    let target = target.into_string().map_err(|_| Errno::INVAL)?;
                    let target = if target.starts_with('/') {
                        target
                    } else {
                        format!("{parent}/{target}")
                    };
                    match self.find(&target, Links::Followed) {
                        Err(Errno::NOENT) => {
                            let links_left = links_left.checked_sub(1).ok_or(Errno::LOOP)?;
                            self.make(&target, kind, links_left)
                        }
                        found => found,
                    }
                }
                // Somebody else made it meanwhile.
                Err(_) => self.find(path, Links::Followed),
            },
            made => made.and_then(|()| self.find(path, Links::Followed)),
        }
    }
}

/// Whether the file behind a handle is a folder.
///
/// # Errors
/// What fstat says.
pub fn kind_of(fd: BorrowedFd<'_>) -> Result<Kind, Errno> {
    let stat = statat(fd, c"", AtFlags::EMPTY_PATH)?;
    let folder = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    Ok(if folder { Kind::Folder } else { Kind::File })
}

fn make_entry(folder: BorrowedFd<'_>, name: &str, kind: Kind) -> Result<(), Errno> {
    match kind {
        Kind::Folder => mkdirat(folder, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// Without `.`, `..` and doubled slashes.
fn clean(path: &str) -> String {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

fn split(path: &str) -> Result<(&str, &str), Errno> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "" | "." | ".." => Err(Errno::INVAL),
        _ => Ok((if parent.is_empty() { "/" } else { parent }, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    fn image() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        (folder, root)
    }

    fn where_is(fd: &OwnedFd) -> std::path::PathBuf {
        use rustix::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    }

    #[test]
    fn a_missing_destination_is_made_with_its_parents() {
        let (image, root) = image();

        let folder = root.find_or_make("/a/b/c", Kind::Folder).unwrap();
        let file = root.find_or_make("/a/d/file", Kind::File).unwrap();

        assert_eq!(kind_of(folder.as_fd()), Ok(Kind::Folder));
        assert_eq!(where_is(&file), image.path().join("a/d/file"));
        assert!(image.path().join("a/d/file").is_file());
    }

    #[test]
    fn a_long_path_is_made_whole_and_a_chain_of_links_is_not_followed_for_ever() {
        let (image, root) = image();
        let long = "/0123456789abcdef".repeat(200);

        let made = root.find_or_make(&long, Kind::Folder).unwrap();
        assert_eq!(kind_of(made.as_fd()), Ok(Kind::Folder));
        assert!(image.path().join(&long[1..]).is_dir());

        for link in 0..=LINKS_MAX {
            let next = format!("link{}", link + 1);
            symlink(next, image.path().join(format!("link{link}"))).unwrap();
        }
        assert!(root.find_or_make("/link30/x", Kind::Folder).is_ok());
        assert_eq!(
            root.find_or_make("/link0/x", Kind::Folder).err(),
            Some(Errno::LOOP)
        );
    }

    #[test]
    fn an_absolute_link_ends_inside_the_image() {
        let (image, root) = image();
        symlink("/etc", image.path().join("link")).unwrap();

        let made = root
            .find_or_make("/link/hutch-was-here", Kind::Folder)
            .unwrap();

        assert_eq!(where_is(&made), image.path().join("etc/hutch-was-here"));
        assert!(!Path::new("/etc/hutch-was-here").exists());
    }

    #[test]
    fn climbing_out_of_the_image_ends_at_its_root() {
        let (image, root) = image();
        symlink("../../../../../../tmp", image.path().join("up")).unwrap();

        let made = root.find_or_make("/up/../../x", Kind::File).unwrap();

        assert_eq!(where_is(&made), image.path().join("x"));
        assert!(!Path::new("/x").exists());
    }

    #[test]
    fn a_link_to_itself_is_an_error_and_not_a_loop() {
        let (image, root) = image();
        symlink("knot", image.path().join("knot")).unwrap();

        assert_eq!(
            root.find_or_make("/knot/x", Kind::Folder).err(),
            Some(Errno::LOOP)
        );
    }

    #[test]
    fn a_link_is_refused_where_none_may_be() {
        let (image, root) = image();
        symlink("/elsewhere", image.path().join("proc")).unwrap();

        assert_eq!(root.find("/proc", Links::Refused).err(), Some(Errno::LOOP));
        assert_eq!(
            root.find("/proc", Links::Followed).err(),
            Some(Errno::NOENT)
        );
    }

    #[test]
    fn a_magic_link_leads_nowhere() {
        let root = Root::open("/").unwrap();

        let found = root.find("/proc/self/cwd", Links::Followed);

        assert_eq!(found.err(), Some(Errno::LOOP));
    }
}
