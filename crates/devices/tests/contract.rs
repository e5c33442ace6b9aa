//! One suite for every driver of the port `Shares`: what holds of the fake holds of Linux and
//! virtiofsd.
//!
//! The fake always runs. The driver runs as root with a virtiofsd at `$HUTCH_GUEST_VIRTIOFSD`, in a
//! mount namespace of the test's own, from which nothing comes out.

#![allow(clippy::unwrap_used)] // Tests may.

use devices::{
    Error, Shares,
    driver::HostShares,
    fake::{FakeShares, Ground, OwnGround},
    plan::{Habit, Nature},
    steps::{Access, Bind, Depth, Shape},
};
use nix::sched::{CloneFlags, unshare};
use runtime_core::{
    devices::{BindSpec, ContainerDevices, Purpose, ShareSpec},
    error::{Classify, Kind},
    ids::{ContainerNumber, HostProcess, SandboxUid},
    premises::Cgroup,
};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{runtime::Builder, task::LocalSet, time::timeout};

/// A virtiofsd that nobody connected to is killed after five seconds.
const STORY_LIMIT: Duration = Duration::from_secs(60);
/// What has not ended by then goes on.
const MOMENT: Duration = Duration::from_millis(50);

/// What a suite needs of the world around a driver.
trait Stage {
    fn shares(&self) -> &dyn Shares;
    /// The sandbox's folder; it is there.
    fn folder(&self) -> PathBuf;
    /// A bundle with a directory `rootfs`, a file `hosts`, and a volume `config` that is published
    /// whole.
    fn bundle(&self) -> PathBuf;
    fn virtiofsd(&self) -> PathBuf;
    fn is_alive(&self, process: HostProcess) -> bool;
    /// Whether the process was put into the cgroup of the share.
    fn is_in_its_cgroup(&self, process: HostProcess) -> bool;
    /// Whether who serves the share has in it, at this place, what is there on the host.
    fn is_served(&self, process: HostProcess, place: &str) -> bool;
    /// Where copies are, below the sandbox's folder.
    fn copies(&self) -> Vec<PathBuf>;
    /// kill -9 from outside.
    fn murder(&self, process: HostProcess);
    /// What is mounted at the folder or below it.
    fn mounts(&self) -> Vec<PathBuf>;
}

fn spec(stage: &impl Stage) -> ShareSpec {
    ShareSpec {
        uid: SandboxUid::from_random(1),
        folder: stage.folder(),
        virtiofsd: stage.virtiofsd(),
        cgroup: Cgroup("/hutch/1/helpers".to_owned()),
    }
}

fn bind(stage: &impl Stage, place: &str, source: &str, shape: Shape) -> Bind {
    Bind {
        folder: stage.folder(),
        place: place.to_owned(),
        source: stage.bundle().join(source),
        shape,
        depth: Depth::Recursive,
        access: Access::ReadWrite,
    }
}

async fn a_share_is_served_from_its_cgroup_until_it_is_closed(stage: &impl Stage) {
    let virtiofsd = stage.shares().open(spec(stage)).await.unwrap();
    assert!(stage.is_alive(virtiofsd));
    assert!(stage.is_in_its_cgroup(virtiofsd));
    assert_eq!(stage.mounts(), [stage.folder().join("share")]);

    for _ in 0..2 {
        let closed = stage.shares().close(spec(stage), Some(virtiofsd)).await;

        closed.unwrap();
        assert!(!stage.is_alive(virtiofsd));
        assert!(stage.mounts().is_empty());
    }
}

async fn a_share_that_cannot_be_served_leaves_nothing(stage: &impl Stage) {
    let hopeless = ShareSpec {
        virtiofsd: "/no/such/virtiofsd".into(),
        ..spec(stage)
    };

    let refused = stage.shares().open(hopeless).await;

    assert!(matches!(refused, Err(Error::Spawn { .. })), "{refused:?}");
    assert!(stage.mounts().is_empty());
}

async fn a_virtiofsd_that_is_killed_is_noticed_however_late_it_is_asked(stage: &impl Stage) {
    let virtiofsd = stage.shares().open(spec(stage)).await.unwrap();
    let ended = stage.shares().ended(spec(stage), virtiofsd);

    stage.murder(virtiofsd);

    ended.await;
    stage.shares().ended(spec(stage), virtiofsd).await;
    let closed = stage.shares().close(spec(stage), Some(virtiofsd)).await;
    closed.unwrap();
    assert!(stage.mounts().is_empty());
}

async fn binds_come_and_go_however_often_it_is_asked(stage: &impl Stage) {
    let virtiofsd = stage.shares().open(spec(stage)).await.unwrap();
    let binds = vec![
        bind(stage, "1/rootfs", "rootfs", Shape::Directory),
        bind(stage, "1/m0", "hosts", Shape::File),
    ];

    for _ in 0..2 {
        stage.shares().bind(binds.clone()).await.unwrap();
        let share = stage.folder().join("share");
        let places = [share.clone(), share.join("1/m0"), share.join("1/rootfs")];
        assert_eq!(stage.mounts(), places);
    }
    for _ in 0..2 {
        stage.shares().unbind(binds.clone()).await.unwrap();
        assert_eq!(stage.mounts(), [stage.folder().join("share")]);
    }

    stage.shares().bind(binds.clone()).await.unwrap();
    let closed = stage.shares().close(spec(stage), Some(virtiofsd)).await;
    closed.unwrap();
    assert!(stage.mounts().is_empty());
    stage.shares().unbind(binds).await.unwrap();
}

async fn what_is_bound_as_soon_as_a_share_is_open_is_served(stage: &impl Stage) {
    let virtiofsd = stage.shares().open(spec(stage)).await.unwrap();
    let binds = vec![bind(stage, "1/rootfs", "rootfs", Shape::Directory)];

    stage.shares().bind(binds).await.unwrap();

    assert!(stage.is_served(virtiofsd, ""));
    assert!(stage.is_served(virtiofsd, "1/rootfs"));
    let closed = stage.shares().close(spec(stage), Some(virtiofsd)).await;
    closed.unwrap();
}

async fn of_binds_of_which_one_fails_none_is_left(stage: &impl Stage) {
    let virtiofsd = stage.shares().open(spec(stage)).await.unwrap();
    let good = bind(stage, "1/rootfs", "rootfs", Shape::Directory);
    let changed = bind(stage, "1/m0", "hosts", Shape::Directory);
    let gone = bind(stage, "1/m1", "gone", Shape::File);

    let refused = stage.shares().bind(vec![good.clone(), changed]).await;
    assert!(refused.is_err());
    assert_eq!(stage.mounts(), [stage.folder().join("share")]);
    let refused = stage.shares().bind(vec![good, gone]).await;

    assert!(refused.is_err());
    assert_eq!(stage.mounts(), [stage.folder().join("share")]);
    let closed = stage.shares().close(spec(stage), Some(virtiofsd)).await;
    closed.unwrap();
}

async fn copies_are_followed_until_they_are_taken_away(stage: &impl Stage) {
    let virtiofsd = stage.shares().open(spec(stage)).await.unwrap();
    let copies = Bind {
        access: Access::ReadOnly,
        ..bind(stage, "1/w0", "config", Shape::Copies)
    };
    let unmade = stage.shares().follow(copies.clone()).await;
    assert!(unmade.is_err());

    for _ in 0..2 {
        stage.shares().bind(vec![copies.clone()]).await.unwrap();
        assert_eq!(stage.copies(), [stage.folder().join("share/1/w0")]);
        assert_eq!(stage.mounts(), [stage.folder().join("share")]);
        let mut following = stage.shares().follow(copies.clone());
        let early = timeout(MOMENT, &mut following).await;
        assert!(early.is_err(), "{early:?}");

        stage.shares().unbind(vec![copies.clone()]).await.unwrap();
        following.await.unwrap();
        assert!(stage.copies().is_empty());
    }

    stage.shares().bind(vec![copies.clone()]).await.unwrap();
    let mut following = stage.shares().follow(copies);
    assert!(timeout(MOMENT, &mut following).await.is_err());
    let closed = stage.shares().close(spec(stage), Some(virtiofsd)).await;
    closed.unwrap();
    following.await.unwrap();
    assert!(stage.copies().is_empty());
}

async fn nothing_is_bound_without_a_share(stage: &impl Stage) {
    let bind = bind(stage, "1/rootfs", "rootfs", Shape::Directory);

    let refused = stage.shares().bind(vec![bind]).await;

    assert!(refused.is_err());
    assert!(stage.mounts().is_empty());
}

async fn a_survey_tells_what_is_there_and_what_is_not(stage: &impl Stage) {
    let source = |index, source: &str| BindSpec {
        index,
        source: source.into(),
        recursive: true,
        read_only: index > 1,
        purpose: Purpose::Mount,
    };
    let devices = ContainerDevices {
        container: ContainerNumber(1),
        bundle: stage.bundle(),
        root: "rootfs".into(),
        root_read_only: false,
        binds: vec![
            source(0, "hosts"),
            source(1, "config"),
            source(2, "config"),
            source(3, "gone"),
        ],
    };

    let survey = stage.shares().survey(devices.clone()).await.unwrap();

    assert_eq!(survey.bundle, stage.bundle());
    assert_eq!(survey.root.nature, Nature::Directory);
    assert_eq!(survey.root.path, stage.bundle().join("rootfs"));
    let natures: Vec<_> = survey.binds.iter().map(|source| source.nature).collect();
    let folder = Nature::Directory;
    assert_eq!(
        natures,
        [Nature::File(None), folder, folder, Nature::Missing]
    );
    let [_, written, read, _] = &survey.binds[..] else {
        panic!("{survey:?}")
    };
    // It is asked only where it matters: of what the guest cannot write.
    assert_eq!(
        (written.habit, read.habit),
        (Habit::Unknown, Habit::Published)
    );

    let bundle = stage.bundle().join("no-such");
    let refused = stage
        .shares()
        .survey(ContainerDevices { bundle, ..devices });
    assert_eq!(refused.await.unwrap_err().kind(), Kind::Internal);
}

struct FakeStage {
    ground: OwnGround,
    shares: FakeShares,
}

impl FakeStage {
    fn new() -> Self {
        let ground = OwnGround::default();
        let shares = FakeShares::new(Rc::new(ground.clone()));
        shares.put("/b", Nature::Directory);
        shares.put("/b/rootfs", Nature::Directory);
        shares.put("/b/hosts", Nature::File(None));
        shares.put_published("/b/config");
        shares.put("/virtiofsd", Nature::File(None));
        Self { ground, shares }
    }
}

impl Stage for FakeStage {
    fn shares(&self) -> &dyn Shares {
        &self.shares
    }

    fn folder(&self) -> PathBuf {
        "/run/hutch/s/1".into()
    }

    fn bundle(&self) -> PathBuf {
        "/b".into()
    }

    fn virtiofsd(&self) -> PathBuf {
        "/virtiofsd".into()
    }

    fn is_alive(&self, process: HostProcess) -> bool {
        self.ground.cgroup(process).is_some()
    }

    fn is_in_its_cgroup(&self, process: HostProcess) -> bool {
        self.ground.cgroup(process) == Some(spec(self).cgroup)
    }

    fn murder(&self, process: HostProcess) {
        self.ground.exit(process);
    }

    fn is_served(&self, process: HostProcess, place: &str) -> bool {
        self.is_alive(process)
            && self
                .mounts()
                .contains(&self.folder().join("share").join(place))
    }

    fn copies(&self) -> Vec<PathBuf> {
        self.shares.copies()
    }

    fn mounts(&self) -> Vec<PathBuf> {
        self.ground.mounts().into_iter().collect()
    }
}

/// In a mount namespace of the thread's own.
struct HostStage {
    place: TempDir,
    shares: HostShares,
    virtiofsd: PathBuf,
}

impl HostStage {
    fn new(virtiofsd: PathBuf) -> Self {
        let place = tempfile::tempdir().unwrap();
        for folder in ["s", "b", "b/rootfs"] {
            fs::create_dir(place.path().join(folder)).unwrap();
        }
        fs::create_dir_all(place.path().join("b/config/..1")).unwrap();
        symlink("..1", place.path().join("b/config/..data")).unwrap();
        for file in ["b/hosts", "b/config/..1/key", "cgroup.procs"] {
            File::create(place.path().join(file)).unwrap();
        }
        let procs = place.path().join("cgroup.procs");
        let shares = HostShares::new(Arc::new(move |_| vec![procs.clone()]));
        Self {
            place,
            shares,
            virtiofsd,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().canonicalize().unwrap().join(name)
    }
}

impl Stage for HostStage {
    fn shares(&self) -> &dyn Shares {
        &self.shares
    }

    fn folder(&self) -> PathBuf {
        self.at("s")
    }

    fn bundle(&self) -> PathBuf {
        self.at("b")
    }

    fn virtiofsd(&self) -> PathBuf {
        self.virtiofsd.clone()
    }

    fn is_alive(&self, process: HostProcess) -> bool {
        // A zombie waits for its reaper, and has no command line any more.
        let command = fs::read(format!("/proc/{}/cmdline", process.pid));
        command.is_ok_and(|command| !command.is_empty())
    }

    /// Whoever joins writes a 0, which means itself.
    fn is_in_its_cgroup(&self, _: HostProcess) -> bool {
        fs::read(self.at("cgroup.procs")).unwrap() == b"0"
    }

    fn is_served(&self, process: HostProcess, place: &str) -> bool {
        let seen = fs::metadata(format!("/proc/{}/root/{place}", process.pid));
        let there = fs::metadata(self.folder().join("share").join(place)).unwrap();
        seen.is_ok_and(|seen| (seen.dev(), seen.ino()) == (there.dev(), there.ino()))
    }

    fn copies(&self) -> Vec<PathBuf> {
        let share = self.folder().join("share/1");
        let places = fs::read_dir(share).into_iter().flatten();
        let copies = places.map(|place| place.unwrap().path());
        copies
            .filter(|place| place.join("turn").is_file())
            .collect()
    }

    fn murder(&self, process: HostProcess) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let table = File::open("/proc/thread-self/mountinfo").unwrap();
        let lines = BufReader::new(table).lines().map(io::Result::unwrap);
        // What a share stands on is under it, and nothing that anybody asks for.
        let seen = lines.filter(|line| !line.contains(" unbindable "));
        let points = seen.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
        let mut ours: Vec<_> = points
            .filter(|point| point.starts_with(self.folder()))
            .collect();
        ours.sort();
        ours
    }
}

/// Tells a story in a thread with a mount namespace of its own; so are all threads that it starts.
fn apart(story: impl FnOnce(&Path) + Send + 'static) {
    let virtiofsd = env::var_os("HUTCH_GUEST_VIRTIOFSD").map(PathBuf::from);
    let Some(virtiofsd) = virtiofsd.filter(|_| rustix::process::geteuid().is_root()) else {
        eprintln!("not tried: needs root and a virtiofsd at $HUTCH_GUEST_VIRTIOFSD");
        return;
    };
    let told = thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        story(&virtiofsd);
    });
    told.join().unwrap();
}

fn told(story: impl Future<Output = ()>, clock: Clock) {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(clock == Clock::Paused);
    let story = async { timeout(STORY_LIMIT, story).await.expect("a story ends") };
    LocalSet::new().block_on(&runtime.build().unwrap(), story);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    Paused,
    Real,
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod fake {
            $(#[test]
            fn $case() {
                let stage = super::FakeStage::new();
                super::told(super::$case(&stage), super::Clock::Paused);
            })*
        }

        mod host {
            $(#[test]
            fn $case() {
                super::apart(|virtiofsd| {
                    let stage = super::HostStage::new(virtiofsd.to_owned());
                    super::told(super::$case(&stage), super::Clock::Real);
                });
            })*
        }
    };
}

suite!(
    a_share_is_served_from_its_cgroup_until_it_is_closed,
    a_share_that_cannot_be_served_leaves_nothing,
    a_virtiofsd_that_is_killed_is_noticed_however_late_it_is_asked,
    binds_come_and_go_however_often_it_is_asked,
    what_is_bound_as_soon_as_a_share_is_open_is_served,
    of_binds_of_which_one_fails_none_is_left,
    copies_are_followed_until_they_are_taken_away,
    nothing_is_bound_without_a_share,
    a_survey_tells_what_is_there_and_what_is_not,
);
