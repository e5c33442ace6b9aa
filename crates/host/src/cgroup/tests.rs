//! On the hierarchies of this machine, as root; each test has a cgroup of its own below /hutch.

use super::*;
use crate::{
    premises::House,
    proc,
    spent::{USEC_PER_TICK, spent_by},
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::{
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

static TESTS: AtomicU32 = AtomicU32::new(0);

/// A cgroup that goes with the test, however it ends.
struct Place {
    hierarchies: Hierarchies,
    cgroup: CgroupPath,
}

impl Place {
    fn new(hierarchies: Hierarchies) -> Self {
        let number = TESTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("/hutch/test-{}-{number}/vmm", std::process::id());
        let place = Self {
            hierarchies,
            cgroup: CgroupPath::new(&name).unwrap(),
        };
        place.hierarchies.create(&place.cgroup).unwrap();
        place
    }

    fn run(&self, script: &str) -> Child {
        let mut join = String::new();
        for file in self.hierarchies.procs_files(&self.cgroup) {
            join += &format!("echo $$ > {} && ", file.display());
        }
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("{join} echo joined && {script}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 7];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(&line, b"joined\n");
        child
    }

    fn kill(&self) -> BTreeSet<u32> {
        self.hierarchies.kill(&self.cgroup, KILL_LIMIT).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let killed = self.hierarchies.kill(&self.cgroup, KILL_LIMIT);
        let parent = self.cgroup.parent().unwrap();
        let removed = self.hierarchies.remove(&parent, REMOVE_LIMIT);
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            assert!(!self.hierarchies.exists(&parent), "left behind");
        }
    }
}

fn here() -> Hierarchies {
    Hierarchies::discover().unwrap()
}

/// Only those of one version, as on a host that has no other.
fn only(keep: impl Fn(&Version) -> bool) -> Option<Hierarchies> {
    let mut all = here().0;
    all.retain(|hierarchy| keep(&hierarchy.version));
    (!all.is_empty()).then_some(Hierarchies(all))
}

fn houses() -> Vec<Hierarchies> {
    let v1 = only(|version| matches!(version, Version::V1 { .. }));
    let v2 = only(|version| *version == Version::V2);
    // Without freezer and without cgroup.kill: only rounds of signals.
    let bare = only(
        |version| matches!(version, Version::V1 { controllers } if controllers.contains("pids")),
    );
    [Some(here()), v1, v2, bare].into_iter().flatten().collect()
}

#[test]
fn a_cgroup_is_joined_in_every_hierarchy() {
    for hierarchies in houses() {
        let place = Place::new(hierarchies);
        let child = place.run("exec sleep 1000");

        for hierarchy in &place.hierarchies.0 {
            let members = procs(&hierarchy.folder(&place.cgroup)).unwrap();
            assert_eq!(members, [child.id()], "{hierarchy:?}");
        }
        let members = place.hierarchies.members(&place.cgroup).unwrap();
        assert_eq!(members, BTreeSet::from([child.id()]));
        place.kill();
        reap(child);
    }
}

fn reap(mut child: Child) {
    child.wait().unwrap();
}

#[test]
fn nobody_outlives_a_kill_not_even_those_who_fork_meanwhile() {
    for hierarchies in houses() {
        let place = Place::new(hierarchies);
        let child = place.run("trap '' TERM HUP; (while :; do (sleep 0.2 &); sleep 0.001; done)");

        let met = place.kill();

        assert!(met.contains(&child.id()));
        let left = place.hierarchies.members(&place.cgroup).unwrap();
        assert_eq!(left, BTreeSet::new());
        reap(child);
    }
}

#[test]
fn members_of_the_cgroups_below_are_killed_and_their_cgroups_removed() {
    let place = Place::new(here());
    let below = place.cgroup.child("a").unwrap().child("b").unwrap();
    place.hierarchies.create(&below).unwrap();
    let inner = Place {
        hierarchies: here(),
        cgroup: below.clone(),
    };
    let child = inner.run("exec sleep 1000");
    std::mem::forget(inner);

    place.kill();
    place
        .hierarchies
        .remove(&place.cgroup, REMOVE_LIMIT)
        .unwrap();

    reap(child);
    assert!(!place.hierarchies.exists(&below));
    assert!(!place.hierarchies.exists(&place.cgroup));
}

#[test]
fn a_frozen_cgroup_can_be_killed() {
    let place = Place::new(here());
    let child = place.run("exec sleep 1000");
    place
        .hierarchies
        .freeze(&place.cgroup, kill::Freeze::Frozen);

    place.kill();

    reap(child);
}

#[test]
fn a_cgroup_with_members_is_not_removed_and_says_so() {
    let place = Place::new(here());
    let child = place.run("exec sleep 1000");

    let removed = place.hierarchies.remove(&place.cgroup, Duration::ZERO);

    assert!(matches!(removed, Err(Error::StillBusy { .. })));
    let process = proc::identify(child.id()).unwrap();
    assert!(process.is_some(), "removing is not killing");
    place.kill();
    reap(child);
}

#[test]
fn whoever_is_stopped_does_not_keep_a_callers_cgroup_and_is_not_killed() {
    for hierarchies in houses() {
        let place = Place::new(hierarchies);
        let child = place.run("kill -STOP $$; exit 7");
        let pid = Pid::from_child(&child);
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), stopped).unwrap();

        let is_gone = place.hierarchies.vacate(&place.cgroup, REMOVE_LIMIT);

        assert!(is_gone.unwrap());
        assert!(!place.hierarchies.exists(&place.cgroup));
        kill_process(pid, Signal::CONT).unwrap();
        let mut child = child;
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}

#[test]
fn making_and_removing_again_is_already_so() {
    let place = Place::new(here());
    place.hierarchies.create(&place.cgroup).unwrap();
    assert!(place.hierarchies.exists(&place.cgroup));

    place
        .hierarchies
        .remove(&place.cgroup, REMOVE_LIMIT)
        .unwrap();
    place
        .hierarchies
        .remove(&place.cgroup, REMOVE_LIMIT)
        .unwrap();

    assert!(!place.hierarchies.exists(&place.cgroup));
    assert_eq!(place.kill(), BTreeSet::new());
    // And the parent that was made for it went with it.
    assert!(!place.hierarchies.exists(&place.cgroup.parent().unwrap()));
}

#[test]
fn a_daemon_does_not_kill_itself() {
    let hierarchies = here();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    // Of this machine's roots only a path below one can be named.
    for path in own.filter_map(|path| CgroupPath::new(path).ok()) {
        let killed = hierarchies.kill(&path, Duration::ZERO);
        assert!(matches!(killed, Err(Error::OwnCgroup { .. })), "{path}");
    }
}

#[test]
fn what_a_busy_process_uses_is_counted() {
    for hierarchies in houses() {
        let place = Place::new(hierarchies);
        let before = place.hierarchies.stats(&place.cgroup);
        let child = place.run("while :; do :; done");
        let deadline = Instant::now() + Duration::from_secs(20);
        let used = |stats: CgroupStats| stats.cpu_usage_us.unwrap_or(1_000_000);
        while used(place.hierarchies.stats(&place.cgroup)) < 100_000 {
            assert!(Instant::now() < deadline, "no processor time is counted");
        }

        let stats = place.hierarchies.stats(&place.cgroup);

        assert!(stats.cpu_usage_us >= before.cpu_usage_us);
        let has = |controller| place.hierarchies.0.iter().any(|h| h.has(controller));
        if has("pids") {
            assert_eq!((before.pids, stats.pids), (Some(0), Some(1)));
        }
        if has("memory") {
            assert!(stats.memory_bytes > Some(0), "{stats:?}");
            assert!(stats.memory_peak_bytes >= stats.memory_bytes, "{stats:?}");
            assert_eq!(stats.memory_limit_bytes, None);
        }
        place.kill();
        reap(child);
    }
}

#[test]
fn a_cgroup_knows_which_daemon_made_it() {
    let place = Place::new(here());
    let parent = place.cgroup.parent().unwrap();
    let name = parent.as_str().strip_prefix("/hutch/").unwrap();

    place
        .hierarchies
        .mark(&parent, Path::new("/run/a"))
        .unwrap();

    let marked = |root: &str| place.hierarchies.marked(Path::new(root)).unwrap();
    assert_eq!(marked("/run/a").get(name), Some(&parent));
    assert!(!marked("/run/b").contains_key(name));
    assert!(!marked("").contains_key(name));
}

fn mount(point: &str, fs_type: &str, options: &str, super_options: &str) -> Mount {
    Mount {
        root: "/".into(),
        point: point.into(),
        options: options.into(),
        fs_type: fs_type.into(),
        super_options: super_options.into(),
    }
}

#[test]
fn hierarchies_are_found_in_v1_hybrid_and_v2() {
    let points = |mounts| -> Vec<_> {
        let found = Hierarchies::among(mounts).unwrap().0;
        found
            .into_iter()
            .map(|hierarchy| hierarchy.mount_point)
            .collect()
    };

    let v2 = vec![mount(
        "/sys/fs/cgroup",
        "cgroup2",
        "rw,nosuid",
        "rw,nsdelegate",
    )];
    assert_eq!(points(v2), [Path::new("/sys/fs/cgroup")]);
    let hybrid = vec![
        mount("/sys/fs/cgroup", "tmpfs", "rw", "rw,mode=755"),
        mount("/c/cpu,cpuacct", "cgroup", "rw,nosuid", "rw,cpu,cpuacct"),
        mount("/c/systemd", "cgroup", "rw", "rw,xattr,name=systemd"),
        mount("/c/net_cls", "cgroup", "rw", "rw,net_cls"),
        mount("/c/pids", "cgroup", "ro", "rw,pids"),
        mount("/c/unified", "cgroup2", "rw", "rw"),
        mount("/again/cpu", "cgroup", "rw", "rw,cpu,cpuacct"),
    ];
    assert_eq!(
        points(hybrid),
        ["/c/cpu,cpuacct", "/c/systemd", "/c/unified"].map(Path::new)
    );
    let none = Hierarchies::among(vec![mount("/", "ext4", "rw", "rw")]);
    assert!(matches!(none, Err(Error::NoHierarchy)));
}

/// Works for a while, has eight MiB of its own, says so, and stands still.
const BUSY: &str = "x=xxxxxxxx; i=0; while [ $i -lt 20 ]; do x=$x$x; i=$((i+1)); done; \
    while [ $i -lt 300000 ]; do i=$((i+1)); done; echo worked; kill -STOP $$";
const BUSY_BYTES: u64 = 8 << 20;
const BUSY_TICKS_MIN: u64 = 5;
/// The kernel counts a process in ticks, and a cgroup more finely.
const CPU_SLACK_USEC: u64 = 3 * USEC_PER_TICK;
/// A cgroup is charged for what the kernel keeps for it, too.
const MEMORY_SLACK_BYTES: u64 = 8 << 20;

#[test]
fn a_cgroup_spends_what_the_kernel_counts_of_its_processes() {
    let place = Place::new(here());
    let mut child = place.run(BUSY);
    let mut line = [0; 7];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let process = proc::identify(child.id()).unwrap().unwrap();
    let house = House {
        root: "/nonexistent".into(),
        hierarchies: here(),
    };
    let before = spent_by(&[process]);

    let spent = house.spent(&place.cgroup).unwrap();

    let after = spent_by(&[process]);
    assert_eq!((&line, spent.processes), (b"worked\n", 1));
    assert!(before.cpu_usec >= BUSY_TICKS_MIN * USEC_PER_TICK);
    let cpu = before.cpu_usec - CPU_SLACK_USEC..=after.cpu_usec + CPU_SLACK_USEC;
    assert!(cpu.contains(&spent.cpu_usec), "{spent:?}, and not {cpu:?}");
    let memory = BUSY_BYTES..=after.memory_bytes + MEMORY_SLACK_BYTES;
    assert!(
        memory.contains(&spent.memory_bytes),
        "{spent:?}, and not {memory:?}"
    );
    place.kill();
    reap(child);
}
