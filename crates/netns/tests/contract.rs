//! One suite for every driver of the port `Namespaces`: what holds of the fake holds of Linux.
//!
//! The fake always runs. The driver runs as root, with namespaces and mounts of its own, and
//! leaves none of them behind.

#![allow(clippy::unwrap_used)]

use netns::{
    driver::Host,
    error::Error,
    fake::{FakeNamespaces, Thing},
    port::Namespaces,
};
use runtime_core::error::{Classify, Kind};
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tokio::task::LocalSet;

/// What a suite needs of the world around a driver.
trait Stage {
    fn port(&self) -> Box<dyn Namespaces>;
    /// A folder that is there, and one that is not.
    fn folder(&self) -> PathBuf;
    fn no_folder(&self) -> PathBuf;
    fn put(&self, path: &Path, thing: Thing);
    fn at(&self, path: &Path) -> Option<Thing>;
    /// Which namespace it is that is there.
    fn identity(&self, path: &Path) -> u64;
}

async fn a_namespace_is_made_kept_and_removed_however_often_it_is_asked(stage: &impl Stage) {
    let (port, path) = (stage.port(), stage.folder().join("netns"));

    port.make(path.clone()).await.unwrap();
    let identity = stage.identity(&path);
    port.make(path.clone()).await.unwrap();

    assert_eq!(stage.at(&path), Some(Thing::Network));
    assert_eq!(stage.identity(&path), identity);
    port.check(path.clone()).await.unwrap();

    port.remove(path.clone()).await.unwrap();
    port.remove(path.clone()).await.unwrap();

    assert_eq!(stage.at(&path), None);
    let gone = port.check(path).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
}

async fn what_a_make_that_was_cut_short_left_is_made_use_of_or_removed(stage: &impl Stage) {
    let (port, path) = (stage.port(), stage.folder().join("netns"));
    stage.put(&path, Thing::EmptyFile);
    let refused = port.check(path.clone()).await;
    assert!(matches!(refused, Err(Error::NotANetwork { .. })));

    port.make(path.clone()).await.unwrap();

    assert_eq!(stage.at(&path), Some(Thing::Network));
    port.remove(path.clone()).await.unwrap();
    stage.put(&path, Thing::EmptyFile);
    port.remove(path.clone()).await.unwrap();
    assert_eq!(stage.at(&path), None);
}

async fn what_is_not_ours_is_refused_and_stays(stage: &impl Stage) {
    let (port, path) = (stage.port(), stage.folder().join("netns"));
    stage.put(&path, Thing::Other);

    let made = port.make(path.clone()).await;
    let removed = port.remove(path.clone()).await;
    let checked = port.check(path.clone()).await;

    assert!(matches!(made, Err(Error::Occupied { .. })), "{made:?}");
    assert!(
        matches!(removed, Err(Error::Occupied { .. })),
        "{removed:?}"
    );
    assert!(
        matches!(checked, Err(Error::NotANetwork { .. })),
        "{checked:?}"
    );
    assert_eq!(stage.at(&path), Some(Thing::Other));
}

async fn without_its_folder_nothing_is_made_and_nothing_is_there_to_remove(stage: &impl Stage) {
    let (port, path) = (stage.port(), stage.no_folder().join("netns"));

    let made = port.make(path.clone()).await.unwrap_err();
    port.remove(path.clone()).await.unwrap();

    assert_eq!(made.kind(), Kind::NotFound);
    assert_eq!(stage.at(&path), None);
}

async fn what_begins_first_is_over_first_even_if_nobody_waits(stage: &impl Stage) {
    let (port, path) = (stage.port(), stage.folder().join("netns"));
    for _ in 0..5 {
        let (first, second) = (port.make(path.clone()), port.make(path.clone()));
        drop(tokio::task::spawn_local(first));
        drop(tokio::task::spawn_local(second));
        let last = port.remove(path.clone());

        let removed = tokio::task::spawn_local(last).await.unwrap();

        removed.unwrap();
        assert_eq!(stage.at(&path), None);
    }
}

async fn each_path_has_a_namespace_of_its_own(stage: &impl Stage) {
    let port = stage.port();
    let paths: Vec<_> = (0..8).map(|n| stage.folder().join(n.to_string())).collect();

    let made = paths.iter().map(|path| {
        let made = port.make(path.clone());
        tokio::task::spawn_local(made)
    });
    for made in made.collect::<Vec<_>>() {
        made.await.unwrap().unwrap();
    }

    let mut identities: Vec<_> = paths.iter().map(|path| stage.identity(path)).collect();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), paths.len());
    for path in paths {
        port.remove(path.clone()).await.unwrap();
        assert_eq!(stage.at(&path), None);
    }
}

/// Carries a packet over loopback of the namespace at `path`.
fn loop_back(path: PathBuf) -> std::io::Result<usize> {
    let inside = std::thread::spawn(move || {
        let file = fs::File::open(path)?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(b"hello", socket.local_addr()?)?;
        socket.recv(&mut [0; 8])
    });
    inside.join().unwrap()
}

fn own_network() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

/// Of the driver alone: the fake has no loopback, and no threads that could stray.
#[tokio::test(flavor = "current_thread")]
async fn a_namespace_has_loopback_up_and_its_maker_stays_where_it_was() {
    let Some(stage) = LinuxStage::new() else {
        eprintln!("not tried: only root makes network namespaces");
        return;
    };
    let (port, path, before) = (stage.port(), stage.folder().join("netns"), own_network());

    port.make(path.clone()).await.unwrap();

    assert_eq!(loop_back(path.clone()).unwrap(), 5);
    assert_eq!(own_network(), before);
    let pool = tokio::task::spawn_blocking(own_network);
    assert_eq!(pool.await.unwrap(), before);
    port.remove(path).await.unwrap();
    stage.assert_clean();
}

/// Of the driver alone: links and mounts that only a real file system has.
#[tokio::test(flavor = "current_thread")]
async fn a_link_in_the_place_of_a_namespace_is_not_followed_and_a_callers_is() {
    let Some(stage) = LinuxStage::new() else {
        eprintln!("not tried: only root makes network namespaces");
        return;
    };
    let (port, path) = (stage.port(), stage.folder().join("netns"));
    let target = stage.folder().join("target");
    port.make(target.clone()).await.unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();

    let made = port.make(path.clone()).await;
    let removed = port.remove(path.clone()).await;
    let checked = port.check(path.clone()).await;

    assert!(matches!(made, Err(Error::Occupied { .. })), "{made:?}");
    assert!(
        matches!(removed, Err(Error::Occupied { .. })),
        "{removed:?}"
    );
    checked.unwrap();
    port.check("/proc/self/ns/net".into()).await.unwrap();
    let other = port.check("/proc/self/ns/mnt".into()).await;
    assert!(matches!(other, Err(Error::NotANetwork { .. })), "{other:?}");
    assert_eq!(stage.at(&target), Some(Thing::Network));
    port.remove(target).await.unwrap();
    stage.assert_clean();
}

/// Of the driver alone: also one that was bound and came no further.
#[tokio::test(flavor = "current_thread")]
async fn a_namespace_is_left_out_where_somebody_binds_the_whole_host() {
    let Some(stage) = LinuxStage::new() else {
        eprintln!("not tried: only root makes network namespaces");
        return;
    };
    let (port, path) = (stage.port(), stage.folder().join("netns"));
    let unbindable = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of = |line: &&str| line.contains(&format!("{} ", path.display()));
        mounts.lines().find(of).unwrap().contains(" unbindable ")
    };
    port.make(path.clone()).await.unwrap();
    assert!(unbindable());
    rustix::mount::mount_change(&path, rustix::mount::MountPropagationFlags::PRIVATE).unwrap();

    port.make(path.clone()).await.unwrap();

    assert!(unbindable());
    port.remove(path.clone()).await.unwrap();
    stage.assert_clean();
}

/// Two daemons for a moment: each of their mounts is taken away.
#[tokio::test(flavor = "current_thread")]
async fn mounts_that_lie_on_each_other_go_together() {
    let Some(stage) = LinuxStage::new() else {
        eprintln!("not tried: only root makes network namespaces");
        return;
    };
    let (port, path) = (stage.port(), stage.folder().join("netns"));
    port.make(path.clone()).await.unwrap();
    rustix::mount::mount_bind("/proc/self/ns/net", &path).unwrap();

    port.remove(path.clone()).await.unwrap();

    assert_eq!(stage.at(&path), None);
    stage.assert_clean();
}

macro_rules! suite {
    ($($story:ident),* $(,)?) => {
        mod on_the_fake {
            use super::*;
            $(
                #[tokio::test(flavor = "current_thread", start_paused = true)]
                async fn $story() {
                    let stage = FakeStage::default();
                    LocalSet::new().run_until(super::$story(&stage)).await;
                    stage.assert_clean();
                }
            )*
        }

        mod on_linux {
            use super::*;
            $(
                #[tokio::test(flavor = "current_thread")]
                async fn $story() {
                    let Some(stage) = LinuxStage::new() else {
                        eprintln!("not tried: only root makes network namespaces");
                        return;
                    };
                    LocalSet::new().run_until(super::$story(&stage)).await;
                    stage.assert_clean();
                }
            )*
        }
    };
}

suite!(
    a_namespace_is_made_kept_and_removed_however_often_it_is_asked,
    what_a_make_that_was_cut_short_left_is_made_use_of_or_removed,
    what_is_not_ours_is_refused_and_stays,
    without_its_folder_nothing_is_made_and_nothing_is_there_to_remove,
    what_begins_first_is_over_first_even_if_nobody_waits,
    each_path_has_a_namespace_of_its_own,
);

#[derive(Default)]
struct FakeStage(FakeNamespaces);

impl FakeStage {
    fn assert_clean(&self) {
        assert!(self.0.things().values().all(|thing| *thing == Thing::Other));
    }
}

impl Stage for FakeStage {
    fn port(&self) -> Box<dyn Namespaces> {
        Box::new(self.0.clone())
    }

    fn folder(&self) -> PathBuf {
        "/there".into()
    }

    fn no_folder(&self) -> PathBuf {
        self.0.without_folder("/not-there");
        "/not-there".into()
    }

    fn put(&self, path: &Path, thing: Thing) {
        self.0.put(path, thing);
    }

    fn at(&self, path: &Path) -> Option<Thing> {
        self.0.at(path)
    }

    fn identity(&self, path: &Path) -> u64 {
        self.0.identity(path).unwrap()
    }
}

/// Its driver is a daemon's; its folder is gone at the end.
struct LinuxStage {
    host: Host,
    folder: TempDir,
}

impl LinuxStage {
    fn new() -> Option<Self> {
        rustix::process::geteuid().is_root().then(|| Self {
            host: Host::default(),
            folder: TempDir::new().unwrap(),
        })
    }

    fn assert_clean(&self) {
        let folder = self.folder.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(folder), "{mounts}");
    }
}

/// What a story that failed left must not stay.
impl Drop for LinuxStage {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let detach = rustix::mount::UnmountFlags::DETACH;
            while rustix::mount::unmount(&path, detach).is_ok() {}
        }
    }
}

impl Stage for LinuxStage {
    fn port(&self) -> Box<dyn Namespaces> {
        Box::new(self.host.clone())
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().into()
    }

    fn no_folder(&self) -> PathBuf {
        self.folder.path().join("not-there")
    }

    fn put(&self, path: &Path, thing: Thing) {
        match thing {
            Thing::EmptyFile => fs::write(path, "").unwrap(),
            Thing::Other => fs::write(path, "somebody's").unwrap(),
            Thing::Network => unreachable!("no story puts one there"),
        }
    }

    fn at(&self, path: &Path) -> Option<Thing> {
        let network = rustix::fs::statfs(path).ok()?.f_type == 0x6e73_6673;
        let empty = fs::metadata(path).unwrap().len() == 0;
        Some(match (network, empty) {
            (true, _) => Thing::Network,
            (false, true) => Thing::EmptyFile,
            (false, false) => Thing::Other,
        })
    }

    fn identity(&self, path: &Path) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
    }
}
