//! What a story could leave behind, taken before and after it.
//!
//! Taken from inside the harness's own mount and network namespaces, where mounts, links and sockets are only ours.
//! Processes are those below the harness, which is where orphans of its children come to. Only cgroups are the whole host's.

use super::process::{self, Identity};
use anyhow::{Context, Result};
use nix::unistd::Pid;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What a daemon leaves in its state folder for the next one.
const KEPT: &[&str] = &["hutchd.lock", "hutchd.log", "store", "store.holder"];
/// cgroups that a host's own services make and remove at any time.
const FOREIGN_CGROUPS: &[&str] = &["/system.slice", "/user.slice", "/init.scope"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    processes: BTreeMap<Identity, String>,
    /// By name; several alike are several.
    things: BTreeMap<Thing, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    // The point first: things are ordered by it.
    Mount { point: String, kind: String },
    NetworkNamespace(String),
    Link(String),
    Cgroup(String),
    Socket(String),
    File(String),
}

impl Snapshot {
    /// `root` is the state folder of the story's daemon.
    pub fn take(root: &Path) -> Result<Self> {
        let mut snapshot = Self {
            processes: processes()?,
            things: BTreeMap::new(),
        };
        let mountinfo = read("/proc/thread-self/mountinfo")?;
        let mounts = mounts(&mountinfo);
        let cgroups = mounts
            .iter()
            .filter(|mount| mount.kind.starts_with("cgroup"))
            .flat_map(|mount| cgroups(mount.point))
            .map(Thing::Cgroup);
        let things = mounts
            .iter()
            .map(|mount| Thing::Mount {
                kind: mount.kind.to_owned(),
                point: mount.point.to_owned(),
            })
            .chain(names("/run/netns").into_iter().map(Thing::NetworkNamespace))
            .chain(
                links(&read("/proc/thread-self/net/dev")?)
                    .into_iter()
                    .map(Thing::Link),
            )
            .chain(
                sockets(&read("/proc/thread-self/net/unix")?)
                    .into_iter()
                    .map(Thing::Socket),
            )
            .chain(files(root).into_iter().map(Thing::File))
            .chain(cgroups);
        for thing in things {
            *snapshot.things.entry(thing).or_default() += 1;
        }
        Ok(snapshot)
    }

    /// What is here and was not there `before`, one line each.
    pub fn leaks_since(&self, before: &Self) -> Vec<String> {
        let processes = self
            .processes
            .iter()
            .filter(|(identity, _)| !before.processes.contains_key(identity))
            .map(|(identity, command)| format!("process {}: {command}", identity.pid));
        let things = self.new_things(before).map(Thing::to_string);
        processes.chain(things).collect()
    }

    /// The cgroups that were not there `before`, inner ones first.
    pub fn cgroups_since(&self, before: &Self) -> Vec<&str> {
        self.new_things(before)
            .filter_map(|thing| match thing {
                Thing::Cgroup(path) => Some(path.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Where something is mounted that was not there `before`, inner ones first.
    pub fn mounts_since(&self, before: &Self) -> Vec<&str> {
        self.new_things(before)
            .filter_map(|thing| match thing {
                Thing::Mount { point, .. } => Some(point.as_str()),
                _ => None,
            })
            .collect()
    }

    /// In falling order, so that what lies in something comes before it.
    fn new_things(&self, before: &Self) -> impl Iterator<Item = &Thing> {
        self.things
            .iter()
            .rev()
            .filter(|(thing, count)| **count > before.things.get(thing).copied().unwrap_or(0))
            .map(|(thing, _)| thing)
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = match self {
            Self::Mount { kind, point } => return write!(f, "mount {kind} on {point}"),
            Self::NetworkNamespace(name) => ("network namespace", name),
            Self::Link(name) => ("link", name),
            Self::Cgroup(name) => ("cgroup", name),
            Self::Socket(name) => ("socket", name),
            Self::File(name) => ("file", name),
        };
        write!(f, "{kind} {name}")
    }
}

struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

fn processes() -> Result<BTreeMap<Identity, String>> {
    let all = process::all()?;
    Ok(process::descendants(&all, Pid::this())
        .into_iter()
        .filter(|process| !process.is_dead)
        .map(|process| (process.identity, process.command.clone()))
        .collect())
}

/// `ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAGS…] - TYPE SOURCE OPTIONS`
fn mounts(mountinfo: &str) -> Vec<Mount<'_>> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            Some(Mount {
                point: head.split(' ').nth(4)?,
                kind: tail.split(' ').next()?,
            })
        })
        .collect()
}

/// Two lines of titles, then `NAME: …`.
fn links(dev: &str) -> Vec<String> {
    dev.lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

/// A line of titles, then seven fields and, if it has one, the path. An open connection has its listener's.
fn sockets(unix: &str) -> BTreeSet<String> {
    unix.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(7))
        .map(str::to_owned)
        .collect()
}

fn cgroups(hierarchy: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![hierarchy.to_owned()];
    while let Some(folder) = waiting.pop() {
        for child in folders(Path::new(&folder)) {
            let own = child.strip_prefix(hierarchy).unwrap_or(&child);
            if !FOREIGN_CGROUPS
                .iter()
                .any(|foreign| own.starts_with(foreign))
            {
                waiting.push(child.clone());
                found.push(child);
            }
        }
    }
    found
}

fn folders(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        // It went while we looked.
        return Vec::new();
    };
    entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .collect()
}

fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Everything below the state folder that is not kept for the next daemon. Empty folders are no leak.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.filter_map(std::result::Result::ok) {
            let path = entry.path();
            let own = path.strip_prefix(root).unwrap_or(&path);
            if KEPT.iter().any(|kept| own == Path::new(kept)) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(path),
                _ => found.push(own.to_string_lossy().into_owned()),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::{
        os::unix::net::UnixListener,
        process::{Command, Stdio},
    };

    #[test]
    fn a_story_that_leaves_nothing_has_no_leaks() {
        let scratch = Scratch::new().unwrap();
        fs::create_dir_all(scratch.path().join("store/db")).unwrap();

        let before = Snapshot::take(scratch.path()).unwrap();
        fs::write(scratch.path().join("store/db/blob"), "kept").unwrap();
        fs::create_dir(scratch.path().join("s")).unwrap();
        let after = Snapshot::take(scratch.path()).unwrap();

        let ours: Vec<String> = after
            .leaks_since(&before)
            .into_iter()
            .filter(|leak| leak.starts_with("file"))
            .collect();
        assert!(ours.is_empty(), "{ours:?}");
    }

    #[test]
    fn a_process_a_socket_and_a_file_left_behind_are_named() {
        let scratch = Scratch::new().unwrap();
        let before = Snapshot::take(scratch.path()).unwrap();
        let socket = scratch.path().join("control.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::create_dir(scratch.path().join("s")).unwrap();
        fs::write(scratch.path().join("s/console.log"), "").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "read left_behind"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();

        let leaks = Snapshot::take(scratch.path()).unwrap().leaks_since(&before);

        child.kill().unwrap();
        child.wait().unwrap();
        for expected in [
            format!("process {}: sh -c read left_behind", child.id()),
            format!("socket {}", socket.display()),
            "file control.sock".to_owned(),
            "file s/console.log".to_owned(),
        ] {
            assert!(leaks.contains(&expected), "{expected} is not in {leaks:?}");
        }
    }

    #[test]
    fn a_dead_child_that_nobody_reaped_is_no_process() {
        let scratch = Scratch::new().unwrap();
        let before = Snapshot::take(scratch.path()).unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(crate::wait::wait_until(
            || !crate::daemon::is_alive(pid),
            std::time::Duration::from_secs(10)
        ));

        let leaks = Snapshot::take(scratch.path()).unwrap().leaks_since(&before);

        child.wait().unwrap();
        let word = format!("process {}", child.id());
        assert!(
            !leaks.iter().any(|leak| leak.starts_with(&word)),
            "{leaks:?}"
        );
    }

    fn on_x() -> Thing {
        Thing::Mount {
            kind: "tmpfs".into(),
            point: "/x".into(),
        }
    }

    #[test]
    fn a_second_mount_on_the_same_place_is_a_leak() {
        let one = Snapshot {
            things: BTreeMap::from([(on_x(), 1)]),
            ..Snapshot::default()
        };
        let two = Snapshot {
            things: BTreeMap::from([(on_x(), 2)]),
            ..Snapshot::default()
        };

        assert_eq!(two.leaks_since(&one), ["mount tmpfs on /x"]);
        assert!(one.leaks_since(&two).is_empty(), "less than before");
        assert!(one.leaks_since(&one).is_empty());
    }

    #[test]
    fn the_kernels_tables_are_read_as_they_are_written() {
        let mountinfo = "36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/root rw\n40 36 0:4 net:[1] /run/netns/a rw - nsfs nsfs rw\n";
        let points: Vec<(&str, &str)> = mounts(mountinfo)
            .iter()
            .map(|mount| (mount.point, mount.kind))
            .collect();
        assert_eq!(points, [("/mnt", "ext4"), ("/run/netns/a", "nsfs")]);

        let dev = "Inter-|   Receive\n face |bytes\n    lo: 0 0\n tap12:0 0\n";
        assert_eq!(links(dev), ["lo", "tap12"]);

        let unix = "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 10000 1 1 77 /run/a.sock\n0: 2 0 0 1 3 78\n";
        assert_eq!(sockets(unix), BTreeSet::from(["/run/a.sock".to_owned()]));
    }

    #[test]
    fn cgroups_that_are_new_are_listed_inner_ones_first() {
        let things = |paths: &[&str]| Snapshot {
            things: paths
                .iter()
                .map(|path| (Thing::Cgroup((*path).to_owned()), 1))
                .collect(),
            ..Snapshot::default()
        };
        let before = things(&["/sys/fs/cgroup/a"]);

        let after = things(&["/sys/fs/cgroup/a", "/sys/fs/cgroup/b", "/sys/fs/cgroup/b/c"]);

        assert_eq!(
            after.cgroups_since(&before),
            ["/sys/fs/cgroup/b/c", "/sys/fs/cgroup/b"]
        );
    }

    #[test]
    fn a_tree_of_cgroups_is_walked_without_what_is_the_hosts() {
        let scratch = Scratch::new().unwrap();
        for folder in ["hutch/1", "system.slice/ssh"] {
            fs::create_dir_all(scratch.path().join(folder)).unwrap();
        }
        let hierarchy = scratch.path().to_str().unwrap();

        let mut found = cgroups(hierarchy);
        found.sort();

        assert_eq!(
            found,
            [format!("{hierarchy}/hutch"), format!("{hierarchy}/hutch/1")]
        );
    }
}
