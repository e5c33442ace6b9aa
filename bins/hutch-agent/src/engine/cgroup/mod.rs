//! The cgroup of a container: one folder of cgroup2, and what is written into it.
//!
//! What a limit becomes is decided in `limits` and `devices`, which touch nothing.

mod before;
mod change;
mod devices;
mod limits;
mod list;
mod stats;

pub use before::Before;
pub use devices::{Rule, compile as compile_devices, lower_rules};
pub use limits::{Write, lower_limits};
pub use stats::Stats;

use super::{
    bpf,
    error::{Doing, Error, Result, cause},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat,
    },
    io::{Errno, read, write},
};
use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Handed on to every container; those that the kernel has not are left out.
const CONTROLLERS: [&str; 8] = [
    "cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma", "misc",
];
/// A control file that matters here is one page at most; lists of pids may be longer.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// How many cgroups a container may make below its own: as many as a whole node of a cluster in a container needs, and few
/// enough to visit each when somebody asks for its processes.
const NESTED_MAX: &str = "4096";

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

/// One folder below the root.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

/// Makes the folder below which the containers' are, and hands the controllers down to it.
///
/// # Errors
/// When the folder cannot be made. A controller that is not there is not an error: the limit that
/// needs it is.
pub fn make_root(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).doing(|| format!("make cgroup {path:?}"))?;
    for folder in [path.parent(), Some(path)].into_iter().flatten() {
        let control = folder.join("cgroup.subtree_control");
        for controller in CONTROLLERS {
            // One at a time, since one that is missing makes the kernel refuse all.
            let _ = std::fs::write(&control, format!("+{controller}"));
        }
    }
    Ok(())
}

/// The cgroup of that process, which is `top` or below it. The process is one of a container, which may have put it
/// anywhere there.
///
/// # Errors
/// When it is elsewhere, or is not there any more.
pub fn of_process(pid: u32, top: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let told = std::fs::read(format!("/proc/{pid}/cgroup")).map_err(io)?;
    let name = format!("/proc/self/fd/{}", top.as_raw_fd());
    let top_path = std::fs::read_link(name).map_err(io)?;
    let below = unified(&told).and_then(|name| below(&top_path, name));
    open_below(top, below.ok_or(Errno::SRCH)?)
}

/// Of the lines of cgroups(7), the one of the second version. A name there may be of any bytes.
fn unified(told: &[u8]) -> Option<&Path> {
    let mut lines = told.split(|byte| *byte == b'\n');
    let name = lines.find_map(|line| line.strip_prefix(b"0::/"))?;
    Some(Path::new(OsStr::from_bytes(name)))
}

/// What of `name`, as the kernel tells it from where the hierarchy begins, is below `top`, as it is mounted.
fn below<'p>(top: &Path, name: &'p Path) -> Option<&'p Path> {
    let mut above = name.ancestors();
    let own = above.find(|above| !above.as_os_str().is_empty() && top.ends_with(above))?;
    name.strip_prefix(own).ok()
}

/// The folder may be one of a container: nothing in it leads elsewhere.
fn open_below(top: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(top, path, FOLDER, Mode::empty(), how)
}

impl Cgroup {
    /// # Errors
    /// When it exists already or cannot be made.
    pub fn make(path: PathBuf) -> Result<Self> {
        mkdirat(CWD, &path, Mode::from_raw_mode(0o755))
            .doing(|| format!("make cgroup {path:?}"))?;
        let folder =
            openat(CWD, &path, FOLDER, Mode::empty()).doing(|| format!("open cgroup {path:?}"))?;
        let made = Self { path, folder };
        let bounded = made.write("cgroup.max.descendants", NESTED_MAX);
        match bounded.doing(|| format!("bound what may be below {:?}", made.path)) {
            Ok(()) => Ok(made),
            Err(error) => {
                let _ = made.unlink();
                Err(error)
            }
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// One that the container has made below, or this.
    ///
    /// # Errors
    /// When it is not there, is no cgroup of the container's, or is frozen: whoever is put there is never heard of again.
    pub fn below(&self, path: &Path) -> Result<OwnedFd> {
        let what = || format!("cgroup {path:?} of the container");
        let found = match open_below(self.fd(), path) {
            Err(
                errno @ (Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::XDEV
                | Errno::NAMETOOLONG
                | Errno::INVAL),
            ) => {
                let why = cause(errno.raw_os_error());
                return Err(Error::Invalid { what: what(), why });
            }
            opened => opened.doing(|| format!("open {}", what()))?,
        };
        let how = OFlags::RDONLY | OFlags::CLOEXEC;
        let events = openat(&found, c"cgroup.events", how, Mode::empty())
            .and_then(|events| read_all(&events))
            .doing(|| format!("read cgroup.events of {}", what()))?;
        if value_of(&events, "frozen") == Some("1") {
            let why = "is frozen".to_owned();
            return Err(Error::Invalid { what: what(), why });
        }
        Ok(found)
    }

    /// # Errors
    /// The first limit that the kernel refuses, by file and value.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        for one in writes {
            match self.write(&one.file, &one.value) {
                // Nothing to limit, nothing lost: a guest without swap has no file for it.
                Err(Errno::NOENT) if one.if_present => {}
                done => done.doing(|| format!("set {} to {:?}", one.file, one.value))?,
            }
        }
        Ok(())
    }

    /// Lets the container use these devices only.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn allow_devices(&self, program: &OwnedFd) -> Result<()> {
        bpf::attach_device_program(self.fd(), program.as_fd())
            .doing(|| "attach the device rules".to_owned())
    }

    /// Freezes or thaws, and waits until it is so.
    ///
    /// # Errors
    /// When it is not so in time.
    pub fn freeze(&self, frozen: bool, limit: Duration) -> Result<()> {
        let value = if frozen { "1" } else { "0" };
        self.write("cgroup.freeze", value)
            .doing(|| format!("set cgroup.freeze to {value}"))?;
        let (event, until) = (("frozen", value), Instant::now() + limit);
        let mut outcome = wait_for(self.fd(), event, until);
        // A cgroup is frozen to the kernel when its own processes are, whoever is below (cgroup_update_frozen() in
        // kernel/cgroup/freezer.c). What was frozen there by the container itself stays so.
        if frozen && outcome.is_ok() {
            let arrived = |below: BorrowedFd<'_>| wait_for(below, event, until);
            outcome = visit_nested(self.fd(), arrived, |_, _| Ok(()));
        }
        self.waited(event, limit, outcome)
    }

    /// Kills every process, those of nested cgroups too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
            .doing(|| "set cgroup.kill to 1".to_owned())
    }

    /// # Errors
    /// When processes are left after this time.
    pub fn wait_empty(&self, limit: Duration) -> Result<()> {
        self.wait_event(("populated", "0"), limit)
    }

    /// Removes the folder and all that the container made below. It must have no processes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self) -> Result<()> {
        remove_nested(self.fd()).doing(|| format!("remove cgroups below {:?}", self.path))?;
        self.unlink()
            .doing(|| format!("remove cgroup {:?}", self.path))
    }

    fn unlink(&self) -> Result<(), Errno> {
        match unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the folder if nobody is in it and nothing below; the last count of kills then. Waits for nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_bare(&self) -> Result<Option<u64>> {
        let step = || format!("remove cgroup {:?}", self.path);
        let events = self.read("cgroup.events").doing(step)?;
        if value_of(&events, "populated") != Some("0") {
            return Ok(None);
        }
        // Without the controller nothing is killed.
        let kills = self.oom_kills().unwrap_or(0);
        match self.unlink() {
            Ok(()) => Ok(Some(kills)),
            Err(Errno::BUSY) => Ok(None),
            Err(errno) => Err(errno).doing(step),
        }
    }

    /// Every process, those of nested cgroups too.
    ///
    /// # Errors
    /// When a list cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        let mut collect = |folder: BorrowedFd<'_>| {
            let listed = list_of(folder)?;
            pids.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
            Ok(())
        };
        collect(self.fd())
            .and_then(|()| visit_nested(self.fd(), &mut collect, |_, _| Ok(())))
            .doing(|| format!("list processes of {:?}", self.path))?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// # Errors
    /// When the memory controller is not there.
    pub fn oom_kills(&self) -> Result<u64> {
        let events = self
            .read("memory.events")
            .doing(|| "read memory.events".to_owned())?;
        Ok(value_of(&events, "oom_kill")
            .and_then(|count| count.parse().ok())
            .unwrap_or(0))
    }

    /// # Errors
    /// When the memory controller is not there.
    pub fn open_memory_events(&self) -> Result<OwnedFd> {
        self.open("memory.events", OFlags::RDONLY)
            .doing(|| "open memory.events".to_owned())
    }

    /// # Errors
    /// When there is no such file.
    pub fn read(&self, file: &str) -> Result<String, Errno> {
        read_all(&self.open(file, OFlags::RDONLY)?)
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let file = self.open(file, OFlags::WRONLY)?;
        write(&file, value.as_bytes()).map(drop)
    }

    fn open(&self, file: &str, how: OFlags) -> Result<OwnedFd, Errno> {
        openat(&self.folder, file, how | OFlags::CLOEXEC, Mode::empty())
    }

    fn wait_event(&self, event: (&str, &str), limit: Duration) -> Result<()> {
        let outcome = wait_for(self.fd(), event, Instant::now() + limit);
        self.waited(event, limit, outcome)
    }

    fn waited(
        &self,
        (key, value): (&str, &str),
        limit: Duration,
        outcome: Result<(), Errno>,
    ) -> Result<()> {
        let step = || format!("wait for {key} {value} in cgroup {:?}", self.path);
        match outcome {
            Err(Errno::TIMEDOUT) => Err(Error::Timeout {
                step: step(),
                seconds: limit.as_secs(),
            }),
            outcome => outcome.doing(step),
        }
    }
}

/// Waits on the level: the kernel says when the file has changed, not to what. TIMEDOUT: it is not so by then.
fn wait_for(
    folder: BorrowedFd<'_>,
    (key, value): (&str, &str),
    until: Instant,
) -> Result<(), Errno> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC;
    let events = openat(folder, c"cgroup.events", how, Mode::empty())?;
    loop {
        if value_of(&read_all(&events)?, key) == Some(value) {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        let mut polled = [PollFd::new(&events, PollFlags::PRI)];
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut polled, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// From the beginning, whatever was read before.
fn read_all(file: &OwnedFd) -> Result<String, Errno> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match read(file, &mut piece) {
            Ok(0) => break,
            Ok(_) if bytes.len() > FILE_BYTES_MAX => return Err(Errno::FBIG),
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then_some(value)
    })
}

fn nested(folder: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The processes of one cgroup. A threaded one has no list of its own: its processes are in its parent's.
fn list_of(folder: BorrowedFd<'_>) -> Result<String, Errno> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC;
    let list = openat(folder, c"cgroup.procs", how, Mode::empty())?;
    match read_all(&list) {
        Err(Errno::OPNOTSUPP) => Ok(String::new()),
        listed => listed,
    }
}

fn remove_nested(top: BorrowedFd<'_>) -> Result<(), Errno> {
    visit_nested(
        top,
        |_| Ok(()),
        |above, name| unlinkat(above, name, AtFlags::REMOVEDIR),
    )
}

/// Goes to each cgroup below, and tells of each when all below that was visited. A container nests its own as deep as it
/// likes, and may remove them meanwhile; what it cannot is move one, so that the way back is the way there.
fn visit_nested(
    top: BorrowedFd<'_>,
    mut arrived: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    mut left: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let open = |from: BorrowedFd<'_>, name: &CStr| openat(from, name, FOLDER, Mode::empty());
    let mut here = open(top, c".")?;
    let mut to_visit = vec![nested(top)?];
    let mut way: Vec<CString> = Vec::new();
    while let Some(names) = to_visit.last_mut() {
        let Some(name) = names.pop() else {
            to_visit.pop();
            if let Some(name) = way.pop() {
                here = open(here.as_fd(), c"..")?;
                unless_gone(left(here.as_fd(), &name))?;
            }
            continue;
        };
        let visited = open(here.as_fd(), &name).and_then(|below| {
            arrived(below.as_fd())?;
            let names = nested(below.as_fd())?;
            Ok((below, names))
        });
        if let Some((below, names)) = unless_gone(visited)? {
            here = below;
            to_visit.push(names);
            way.push(name);
        }
    }
    Ok(())
}

/// `None`: of a cgroup that was removed meanwhile, as its files (ENODEV) or its name tell.
fn unless_gone<T>(outcome: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match outcome {
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        outcome => outcome.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_cgroup_is_told_wherever_its_hierarchy_is_mounted() {
        let top = Path::new("/sys/fs/cgroup/hutch/c0");
        for (name, expected) in [
            ("hutch/c0", Some("")),
            ("hutch/c0/init.scope", Some("init.scope")),
            ("hutch/c0/hutch/c0", Some("hutch/c0")),
            // Its hierarchy begins where the agent's cgroup namespace does.
            ("c0/a/b", Some("a/b")),
            ("hutch/c1", None),
            ("hutch", None),
            ("", None),
        ] {
            assert_eq!(
                below(top, Path::new(name)),
                expected.map(Path::new),
                "{name}"
            );
        }
    }

    #[test]
    fn of_a_process_the_place_in_the_second_version_is_what_counts() {
        let told = b"4:pids:/other\n0::/hutch/c0/\xff\n1:name=systemd:/init.scope\n";

        let name = unified(told).unwrap();

        assert_eq!(name.as_os_str().as_bytes(), b"hutch/c0/\xff");
        assert_eq!(unified(b"4:pids:/other\n"), None);
        assert_eq!(
            unified(b"0::/../elsewhere\n"),
            Some(Path::new("../elsewhere"))
        );
    }
}
