//! Trees as Kubernetes makes them, and such as nobody should.

use super::*;
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
};

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn scan(path: &Path) -> Result<Tree, Unfit> {
    Tree::scan(open(path).as_fd())
}

/// A volume as Kubernetes writes one.
fn volume() -> tempfile::TempDir {
    let volume = tempfile::tempdir().unwrap();
    let at = |name: &str| volume.path().join(name);
    fs::create_dir(at("..1")).unwrap();
    fs::write(at("..1/key"), "one").unwrap();
    fs::set_permissions(at("..1/key"), fs::Permissions::from_mode(0o440)).unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/key", at("key")).unwrap();
    volume
}

#[test]
fn a_copy_has_what_its_original_has() {
    let (volume, copy) = (volume(), tempfile::tempdir().unwrap());
    let tree = scan(volume.path()).unwrap();

    tree.copy(open(volume.path()).as_fd(), open(copy.path()).as_fd())
        .unwrap();

    assert!(tree.equals(&scan(copy.path()).unwrap()));
    assert_eq!(fs::read(copy.path().join("key")).unwrap(), b"one");
    let mode = fs::metadata(copy.path().join("..1/key"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o7777, 0o440);
}

#[test]
fn whatever_changes_makes_another_tree() {
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |at| fs::write(at.join("..1/key"), "two!").unwrap(),
        |at| fs::set_permissions(at.join("..1/key"), fs::Permissions::from_mode(0o400)).unwrap(),
        |at| fs::write(at.join("new"), "").unwrap(),
        |at| fs::remove_file(at.join("key")).unwrap(),
        |at| {
            symlink("..2", at.join("tmp")).unwrap();
            fs::rename(at.join("tmp"), at.join("..data")).unwrap();
        },
    ];
    for change in changes {
        let volume = volume();
        let before = scan(volume.path()).unwrap();

        change(volume.path());

        assert!(!before.equals(&scan(volume.path()).unwrap()));
    }
}

#[test]
fn a_file_written_in_place_is_told_from_one_that_was_replaced() {
    let volume = volume();
    let at = |name: &str| volume.path().join(name);
    fs::write(at("written"), "1").unwrap();
    fs::write(at("replaced"), "1").unwrap();
    fs::write(at("left"), "1").unwrap();
    let before = scan(volume.path()).unwrap();

    fs::write(at("written"), "22").unwrap();
    fs::write(at("other"), "22").unwrap();
    fs::rename(at("other"), at("replaced")).unwrap();

    let now = scan(volume.path()).unwrap();
    assert_eq!(now.written_since(&before), [Path::new("written")]);
}

#[test]
fn what_is_published_is_known_by_its_link() {
    let volume = volume();
    assert!(Tree::is_published(open(volume.path()).as_fd()));

    fs::remove_file(volume.path().join("..data")).unwrap();
    assert!(!Tree::is_published(open(volume.path()).as_fd()));
    fs::create_dir(volume.path().join("..data")).unwrap();
    assert!(!Tree::is_published(open(volume.path()).as_fd()));
}

#[test]
fn what_no_copy_can_stand_for_is_unfit() {
    let many = volume();
    for number in 0..ENTRIES_MAX {
        fs::write(many.path().join(number.to_string()), "").unwrap();
    }
    let large = volume();
    let file = File::create(large.path().join("large")).unwrap();
    file.set_len(BYTES_MAX + 1).unwrap();
    let deep = volume();
    fs::create_dir_all(deep.path().join("d/".repeat(DEPTH_MAX + 2))).unwrap();
    let socket = volume();
    let _listener = UnixListener::bind(socket.path().join("socket")).unwrap();

    assert!(matches!(scan(many.path()), Err(Unfit::TooMany)));
    assert!(matches!(scan(large.path()), Err(Unfit::TooLarge)));
    assert!(matches!(scan(deep.path()), Err(Unfit::TooDeep)));
    assert!(matches!(scan(socket.path()), Err(Unfit::Special(_))));
}

#[test]
fn a_link_that_takes_the_place_of_a_folder_is_not_followed() {
    let (volume, copy) = (volume(), tempfile::tempdir().unwrap());
    let tree = scan(volume.path()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("key"), "not yours").unwrap();
    fs::remove_dir_all(volume.path().join("..1")).unwrap();
    symlink(elsewhere.path(), volume.path().join("..1")).unwrap();

    let copied = tree.copy(open(volume.path()).as_fd(), open(copy.path()).as_fd());

    assert!(copied.is_err());
    assert!(!copy.path().join("..1/key").exists());
}
