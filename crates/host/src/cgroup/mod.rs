//! cgroups of the host, in every hierarchy that is mounted: v1, hybrid and v2 without systemd.
//!
//! A cgroup here is a path that exists in all of them at once; so whoever joins it can be found
//! and killed through any. Blocks: call it from `spawn_blocking`.

mod kill;
mod path;
mod stats;

pub use kill::KILL_LIMIT;
pub use path::CgroupPath;
pub use stats::CgroupStats;

use crate::{
    Doing, Error,
    mounts::{self, Mount},
};
use rustix::{
    fs::{AtFlags, CWD, XattrFlags, getxattr, setxattr, unlinkat},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The v1 controllers that a VMM is placed in, and systemd's hierarchy so that it knows as well.
const V1_CONTROLLERS: [&str; 9] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "name=systemd",
];
/// The v2 controllers that are handed down to our cgroups where the parent has them.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];
/// A parent may be removed by a sandbox that ends while one that starts is about to use it; each
/// such meeting costs one attempt.
const CREATE_ATTEMPTS: u32 = 100;
/// An empty cgroup is freed when its last member is reaped by the kernel: milliseconds.
pub const REMOVE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
/// Within a cgroup that hands controllers down, and so takes no members of its own.
const RELAYS: &str = "hutch-relays";
/// Says which daemon made a cgroup: its root folder.
const MARK: &str = "trusted.hutch.root";
/// Linux's PATH_MAX.
const MARK_BYTES_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Version {
    V1 { controllers: BTreeSet<String> },
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub version: Version,
    pub mount_point: PathBuf,
}

/// Every hierarchy that can be used, found once: they do not come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// # Errors
    /// There is none, or /proc does not read.
    pub fn discover() -> Result<Self, Error> {
        Self::among(mounts::list()?)
    }

    fn among(mounts: Vec<Mount>) -> Result<Self, Error> {
        let mut found: Vec<Hierarchy> = Vec::new();
        for mount in mounts.into_iter().filter(is_writable) {
            let Some(version) = version_of(&mount) else {
                continue;
            };
            // One hierarchy may be mounted more than once; the first is the host's own.
            if !found.iter().any(|known| known.version == version) {
                found.push(Hierarchy {
                    version,
                    mount_point: mount.point,
                });
            }
        }
        match found.is_empty() {
            true => Err(Error::NoHierarchy),
            false => Ok(Self(found)),
        }
    }

    /// Makes the cgroup and what is missing above it, ready to be joined. One that exists is
    /// already so.
    ///
    /// # Errors
    /// What was made stays; [`Self::remove`] takes it away.
    pub fn create(&self, cgroup: &CgroupPath) -> Result<(), Error> {
        self.0
            .iter()
            .try_for_each(|hierarchy| hierarchy.create(cgroup))
    }

    /// The `cgroup.procs` files that a process has to be written into to join.
    pub fn procs_files(&self, cgroup: &CgroupPath) -> Vec<PathBuf> {
        let file = |hierarchy: &Hierarchy| hierarchy.folder(cgroup).join("cgroup.procs");
        self.0.iter().map(file).collect()
    }

    /// Makes a caller's cgroup, ready for whoever stands for a container.
    ///
    /// # Errors
    /// What was made stays; [`Self::vacate`] takes it away.
    pub fn lodge(&self, cgroup: &CgroupPath) -> Result<(), Error> {
        self.create(cgroup)?;
        for hierarchy in self.0.iter().filter(|h| h.hands_down(cgroup)) {
            hierarchy.create(&cgroup.child(RELAYS)?)?;
        }
        Ok(())
    }

    /// The `cgroup.procs` files by which whoever stands for a container joins a cgroup that was lodged.
    pub fn lodging(&self, cgroup: &CgroupPath) -> Vec<PathBuf> {
        let file = |hierarchy: &Hierarchy| {
            let folder = hierarchy.folder(cgroup);
            match hierarchy.hands_down(cgroup) {
                true => folder.join(RELAYS).join("cgroup.procs"),
                false => folder.join("cgroup.procs"),
            }
        };
        self.0.iter().map(file).collect()
    }

    /// Removes a cgroup once nobody is in it. Who is stopped in it, as a job of a terminal is, cannot leave, and is put out.
    /// False: others have cgroups in it, and it stays.
    ///
    /// # Errors
    /// Somebody was still in it after `limit`.
    pub fn vacate(&self, cgroup: &CgroupPath, limit: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + limit;
        let mut is_gone = true;
        for hierarchy in &self.0 {
            let folder = hierarchy.folder(cgroup);
            for folder in [folder.join(RELAYS), folder] {
                is_gone &= loop {
                    match remove_empty(&folder)? {
                        Emptied::Gone => break true,
                        Emptied::Shared => break false,
                        Emptied::Populated if Instant::now() < deadline => {
                            hierarchy.put_out_who_is_stopped(&folder)?;
                        }
                        Emptied::Populated => {
                            return Err(Error::StillBusy {
                                cgroup: cgroup.to_string(),
                                limit,
                            });
                        }
                    }
                    // tidy: v1 gives no sign when the last member of a cgroup has gone
                    thread::sleep(POLL);
                };
            }
        }
        Ok(is_gone)
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// It is not there, or has no room.
    pub fn enter(&self, cgroup: &CgroupPath) -> Result<(), Error> {
        join(self.procs_files(cgroup))
    }

    /// Moves this process to the top, so that the cgroup it was in can be removed.
    ///
    /// # Errors
    /// The top takes no members: it is not the host's own.
    pub fn leave(&self) -> Result<(), Error> {
        let file = |hierarchy: &Hierarchy| hierarchy.mount_point.join("cgroup.procs");
        join(self.0.iter().map(file).collect())
    }

    /// Whether it is there in any hierarchy.
    pub fn exists(&self, cgroup: &CgroupPath) -> bool {
        self.0
            .iter()
            .any(|hierarchy| hierarchy.folder(cgroup).is_dir())
    }

    /// Pids of the cgroup and of those below it, in all hierarchies. A cgroup that is not there
    /// has none.
    ///
    /// # Errors
    /// A hierarchy does not read.
    pub fn members(&self, cgroup: &CgroupPath) -> Result<BTreeSet<u32>, Error> {
        let mut members = BTreeSet::new();
        for hierarchy in &self.0 {
            for folder in subtree(&hierarchy.folder(cgroup))? {
                members.extend(procs(&folder)?);
            }
        }
        Ok(members)
    }

    /// Removes the cgroup and those below it, which must have no members any more, and the parents
    /// under `/hutch` that it leaves empty. One that is not there is already so.
    ///
    /// # Errors
    /// It was still busy after `limit`.
    pub fn remove(&self, cgroup: &CgroupPath, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        for hierarchy in &self.0 {
            let folder = hierarchy.folder(cgroup);
            while !remove_subtree(&folder)? {
                if Instant::now() >= deadline {
                    return Err(Error::StillBusy {
                        cgroup: cgroup.to_string(),
                        limit,
                    });
                }
                // tidy: v1 gives no sign when the last member of a cgroup has gone
                thread::sleep(POLL);
            }
        }
        if cgroup.is_ours() {
            self.remove_empty_parents(cgroup);
        }
        Ok(())
    }

    /// A parent that another sandbox uses is busy, and stays.
    fn remove_empty_parents(&self, cgroup: &CgroupPath) {
        let parents = std::iter::successors(cgroup.parent(), CgroupPath::parent);
        for parent in parents {
            for hierarchy in &self.0 {
                let _ = unlinkat(CWD, hierarchy.folder(&parent), AtFlags::REMOVEDIR);
            }
        }
    }

    /// Notes on a cgroup which daemon made it.
    ///
    /// # Errors
    /// The hierarchy keeps no attributes.
    pub fn mark(&self, cgroup: &CgroupPath, root: &Path) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        for hierarchy in &self.0 {
            let folder = hierarchy.folder(cgroup);
            setxattr(
                &folder,
                MARK,
                root.as_os_str().as_bytes(),
                XattrFlags::empty(),
            )
            .map_err(|errno| Error::path(Doing::MarkCgroup, folder)(errno.into()))?;
        }
        Ok(())
    }

    /// The cgroups right below `/hutch` that the daemon with this root folder made, by name.
    ///
    /// # Errors
    /// A hierarchy does not read.
    pub fn marked(&self, root: &Path) -> Result<BTreeMap<String, CgroupPath>, Error> {
        use std::os::unix::ffi::OsStrExt;
        let ours = CgroupPath::ours();
        let mut marked = BTreeMap::new();
        for hierarchy in &self.0 {
            for folder in children(&hierarchy.folder(&ours))? {
                let mut mark = vec![0; MARK_BYTES_MAX];
                let length = getxattr(&folder, MARK, &mut mark[..]).unwrap_or(0);
                let name = folder.file_name().and_then(|name| name.to_str());
                if let Some(name) = name.filter(|_| mark[..length] == *root.as_os_str().as_bytes())
                {
                    marked.insert(name.to_owned(), ours.child(name)?);
                }
            }
        }
        Ok(marked)
    }
}

impl Hierarchy {
    fn folder(&self, cgroup: &CgroupPath) -> PathBuf {
        cgroup.below(&self.mount_point)
    }

    fn has(&self, controller: &str) -> bool {
        match &self.version {
            Version::V1 { controllers } => controllers.contains(controller),
            Version::V2 => false,
        }
    }

    /// To the top, where whoever leaves goes: what it was there for is over when it goes on.
    fn put_out_who_is_stopped(&self, folder: &Path) -> Result<(), Error> {
        let top = self.mount_point.join("cgroup.procs");
        for pid in procs(folder)? {
            let is_stopped = ::proc::stat(pid)
                .is_ok_and(|stat| stat.is_some_and(|stat| stat.life == ::proc::Life::Stopped));
            if is_stopped {
                // A top that takes nobody is not the host's own, and whoever it is keeps the cgroup.
                let _ = fs::write(&top, pid.to_string());
            }
        }
        Ok(())
    }

    /// It is no leaf of v2: the kernel takes members only below it.
    fn hands_down(&self, cgroup: &CgroupPath) -> bool {
        let control = self.folder(cgroup).join("cgroup.subtree_control");
        self.version == Version::V2
            && fs::read_to_string(control).is_ok_and(|handed| !handed.trim().is_empty())
    }

    fn create(&self, cgroup: &CgroupPath) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.create_once(cgroup) {
                Err(Error::Path { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && attempts < CREATE_ATTEMPTS => {}
                verdict => return verdict,
            }
        }
    }

    fn create_once(&self, cgroup: &CgroupPath) -> Result<(), Error> {
        let mut parent = self.mount_point.clone();
        for step in cgroup.ladder() {
            if self.version == Version::V2 {
                hand_down_controllers(&parent);
            }
            let folder = self.folder(&step);
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::path(Doing::MakeCgroup, folder)(error)),
            }
            if self.has("cpuset") {
                fill_cpuset(&parent, &folder)?;
            }
            parent = folder;
        }
        Ok(())
    }
}

/// 0 is whoever writes. cgroups(7).
fn join(procs_files: Vec<PathBuf>) -> Result<(), Error> {
    procs_files
        .into_iter()
        .try_for_each(|file| fs::write(&file, "0").map_err(Error::path(Doing::JoinCgroup, file)))
}

/// A controller that the parent does not have, or does not hand down because it has members of
/// its own, is left out: whoever wants to limit something by it will be told then.
fn hand_down_controllers(parent: &Path) {
    let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if V2_CONTROLLERS.contains(&controller) {
            let _ = fs::write(
                parent.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
}

/// A v1 cpuset is born empty, and nobody can join it before it has processors and memory nodes.
fn fill_cpuset(parent: &Path, folder: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = folder.join(file);
        let now = fs::read_to_string(&own).map_err(Error::path(Doing::FillCpuset, &own))?;
        if now.trim().is_empty() {
            let above = parent.join(file);
            let above =
                fs::read_to_string(&above).map_err(Error::path(Doing::FillCpuset, above))?;
            fs::write(&own, above.trim()).map_err(Error::path(Doing::FillCpuset, own))?;
        }
    }
    Ok(())
}

fn is_writable(mount: &Mount) -> bool {
    let is_rw = |options: &str| options.split(',').any(|option| option == "rw");
    is_rw(&mount.options) && is_rw(&mount.super_options)
}

fn version_of(mount: &Mount) -> Option<Version> {
    match mount.fs_type.as_str() {
        "cgroup2" => Some(Version::V2),
        "cgroup" => {
            let known = |option: &&str| V1_CONTROLLERS.contains(option);
            let controllers = mount.super_options.split(',').filter(known);
            let controllers: BTreeSet<_> = controllers.map(str::to_owned).collect();
            (!controllers.is_empty()).then_some(Version::V1 { controllers })
        }
        _ => None,
    }
}

/// The cgroup and all below it, the deepest last. One that is not there has nothing.
fn subtree(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    if folder.is_dir() {
        found.push(folder.to_owned());
    }
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let children = children(folder)?;
        found.extend(children);
        next += 1;
    }
    Ok(found)
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::path(Doing::ListFolder, folder)(error)),
    };
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let entries = entries.filter_map(Result::ok).filter(is_folder);
    Ok(entries.map(|entry| entry.path()).collect())
}

fn procs(folder: &Path) -> Result<Vec<u32>, Error> {
    let file = folder.join("cgroup.procs");
    match fs::read_to_string(&file) {
        // A process of another pid namespace reads as 0.
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|&pid| pid != 0)
            .collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        // A threaded cgroup lists its processes at the top of its domain only.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            Ok(Vec::new())
        }
        Err(error) => Err(Error::path(Doing::ListMembers, file)(error)),
    }
}

/// What an attempt to remove one cgroup came to.
enum Emptied {
    Gone,
    /// There are cgroups below it.
    Shared,
    Populated,
}

fn remove_empty(folder: &Path) -> Result<Emptied, Error> {
    match unlinkat(CWD, folder, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Emptied::Gone),
        Err(Errno::BUSY | Errno::NOTEMPTY) => match children(folder)?.is_empty() {
            true => Ok(Emptied::Populated),
            false => Ok(Emptied::Shared),
        },
        Err(errno) => Err(Error::path(Doing::RemoveCgroup, folder)(errno.into())),
    }
}

/// True when nothing is left; false while something in it is busy.
fn remove_subtree(folder: &Path) -> Result<bool, Error> {
    for folder in subtree(folder)?.into_iter().rev() {
        match unlinkat(CWD, &folder, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::BUSY | Errno::NOTEMPTY) => return Ok(false),
            Err(errno) => return Err(Error::path(Doing::RemoveCgroup, folder)(errno.into())),
        }
    }
    Ok(true)
}

/// What is removed while it is read answers ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests;
