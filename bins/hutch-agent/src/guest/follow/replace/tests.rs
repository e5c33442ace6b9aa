//! What a reader meets while a tree is replaced under its eyes.

use super::*;
use std::{
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// A set with one key, as Kubernetes publishes it, and what is beside it.
    fn new() -> Self {
        let scene = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        publish(&scene.at("shown"), "1");
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces what is shown by the tree that `make` makes.
    fn replace(&self, make: impl FnOnce(&Path), written: &[&str]) -> Vec<PathBuf> {
        let next = self.at("next");
        make(&next);
        let shown = self.at("shown");
        let places = Places {
            shown: &shown,
            next: &next,
        };
        let written = written.iter().map(PathBuf::from).collect();
        let gone = replace(&places, &written).unwrap();
        fs::remove_dir_all(next).unwrap();
        gone
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at("shown").join(name)).unwrap()
    }
}

fn publish(folder: &Path, text: &str) {
    let set = format!("..{text}");
    fs::create_dir_all(folder.join(&set)).unwrap();
    for key in ["a", "b"] {
        fs::write(folder.join(&set).join(key), text).unwrap();
        symlink(format!("..data/{key}"), folder.join(key)).unwrap();
    }
    symlink(&set, folder.join("..data")).unwrap();
}

#[test]
fn a_copy_is_the_same_and_replacing_by_the_same_changes_nothing() {
    let scene = Scene::new();
    let before = fs::symlink_metadata(scene.at("shown/..1/a")).unwrap();
    let shown = scene.at("shown");

    let gone = scene.replace(|next| copy(&shown, next).unwrap(), &[]);

    let after = fs::symlink_metadata(scene.at("shown/..1/a")).unwrap();
    assert_eq!(before.ino(), after.ino());
    assert!(gone.is_empty());
}

/// Whoever began to read a set reads it to its end, and whoever comes finds one.
#[test]
fn pain_16_a_reader_never_meets_a_missing_or_a_mixed_set() {
    const SETS: u32 = 100;
    let scene = Scene::new();
    let shown = scene.at("shown");
    let (done, reads) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                // Entered once: whatever it points to later, this is one set.
                let set = rustix::fs::open(
                    shown.join("..data"),
                    rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
                    rustix::fs::Mode::empty(),
                )
                .unwrap();
                let read = |key: &str| {
                    let flags = rustix::fs::OFlags::RDONLY;
                    let file = rustix::fs::openat(&set, key, flags, rustix::fs::Mode::empty());
                    io::read_to_string(fs::File::from(file.unwrap())).unwrap()
                };
                assert_eq!(read("a"), read("b"));
                seen.insert(fs::read_to_string(shown.join("a")).unwrap());
                reads.fetch_add(1, Ordering::Relaxed);
            }
            seen.len()
        });
        for number in 2..SETS {
            let gone = scene.replace(|next| publish(next, &number.to_string()), &[]);
            // As long as somebody may be on the way: in a guest it is a second.
            let begun = reads.load(Ordering::Relaxed);
            while reads.load(Ordering::Relaxed) < begun + 2 && !reader.is_finished() {
                thread::yield_now();
            }
            for folder in gone {
                fs::remove_dir_all(shown.join(folder)).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 1);
    });
    assert_eq!(scene.read("a"), (SETS - 1).to_string());
    assert!(!scene.at("shown/..1").exists());
}

#[test]
fn a_file_is_replaced_unless_the_host_wrote_it_in_place() {
    let scene = Scene::new();
    let inode = |scene: &Scene| fs::metadata(scene.at("shown/..1/a")).unwrap().ino();
    let first = inode(&scene);
    let with = |text: &'static str| {
        move |next: &Path| {
            publish(next, "1");
            fs::write(next.join("..1/a"), text).unwrap();
        }
    };

    scene.replace(with("in place"), &["..1/a"]);
    assert_eq!(
        (scene.read("a").as_str(), inode(&scene)),
        ("in place", first)
    );
    scene.replace(with("it"), &["..1/a"]);
    assert_eq!((scene.read("a").as_str(), inode(&scene)), ("it", first));

    scene.replace(with("replaced"), &[]);
    assert_eq!(scene.read("a"), "replaced");
    assert_ne!(inode(&scene), first);
}

#[test]
fn what_changes_its_kind_or_goes_leaves_nothing_behind() {
    let scene = Scene::new();
    let make = |next: &Path| {
        fs::create_dir(next).unwrap();
        fs::create_dir(next.join("a")).unwrap();
        fs::write(next.join("a/inner"), "inner").unwrap();
        fs::write(next.join("..1"), "a file now").unwrap();
        fs::set_permissions(next, fs::Permissions::from_mode(0o750)).unwrap();
    };

    let gone = scene.replace(make, &[]);

    assert!(gone.is_empty());
    assert_eq!(scene.read("a/inner"), "inner");
    assert_eq!(scene.read("..1"), "a file now");
    let left = names(&scene.at("shown")).unwrap();
    assert_eq!(left, BTreeSet::from(["..1".into(), "a".into()]));
    let mode = fs::metadata(scene.at("shown")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o750);
}
