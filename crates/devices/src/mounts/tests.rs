//! What the guest's side of a share may and may not do, tried on the host: as root, in a mount
//! namespace of the test's own, from which nothing comes out.

use super::*;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, mount, mount_bind_recursive};
use std::{os::unix::fs::symlink, thread};

/// Runs in a thread with a mount namespace of its own, whose mounts are shared as systemd's are.
fn apart(test: impl FnOnce(&Path) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root mounts");
        return;
    }
    let tried = thread::spawn(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let all = |kind| mount_change("/", kind | MountPropagationFlags::REC).unwrap();
        all(MountPropagationFlags::PRIVATE);
        all(MountPropagationFlags::SHARED);
        let folder = tempfile::tempdir().unwrap();
        test(&folder.path().canonicalize().unwrap());
    });
    tried.join().unwrap();
}

fn wish(folder: &Path, place: &str, source: &Path) -> Bind {
    Bind {
        folder: folder.into(),
        place: place.into(),
        source: source.into(),
        shape: match source.is_dir() {
            true => Shape::Directory,
            false => Shape::File,
        },
        depth: Depth::Recursive,
        access: Access::ReadWrite,
    }
}

fn source(folder: &Path, name: &str) -> PathBuf {
    let source = folder.join(name);
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    source
}

/// Mount points below `folder`, with their optional fields.
fn mounts(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let ours = |line: &&str| line.contains(folder.to_str().unwrap());
    table.lines().filter(ours).map(str::to_owned).collect()
}

#[test]
fn a_directory_and_a_file_come_and_go_however_often_it_is_asked() {
    apart(|folder| {
        let source = source(folder, "source");
        let binds = [
            wish(folder, "1/rootfs", &source),
            wish(folder, "1/m0", &source.join("file")),
        ];

        for _ in 0..2 {
            make_share(folder).unwrap();
            binds.iter().try_for_each(bind).unwrap();
        }

        let seen = |place: &str| fs::read(share(folder).join(place)).unwrap();
        assert_eq!(seen("1/rootfs/file"), b"text");
        assert_eq!(seen("1/m0"), b"text");
        assert_eq!(mounts(folder).len(), 4, "{:#?}", mounts(folder));

        for _ in 0..2 {
            unbind(folder, "1/m0").unwrap();
            unbind(folder, "1/rootfs").unwrap();
        }
        assert!(!share(folder).join("1").exists());

        unmake_share(folder).unwrap();
        unmake_share(folder).unwrap();
        assert!(mounts(folder).is_empty(), "{:#?}", mounts(folder));
        assert_eq!(fs::read(source.join("file")).unwrap(), b"text");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    });
}

#[test]
fn through_the_share_nothing_can_be_planted_where_the_host_walks() {
    apart(|folder| {
        make_share(folder).unwrap();
        bind(&wish(folder, "1/rootfs", &source(folder, "source"))).unwrap();

        for place in ["2", "1/m0"] {
            let refused = symlink("/etc", share(folder).join(place)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        }
        fs::write(share(folder).join("1/rootfs/new"), "").unwrap();

        unmake_share(folder).unwrap();
    });
}

#[test]
fn a_source_that_became_a_link_is_refused() {
    apart(|folder| {
        make_share(folder).unwrap();
        let source = source(folder, "source");
        let wish = wish(folder, "1/rootfs", &source);
        fs::rename(&source, folder.join("moved")).unwrap();
        symlink("/etc", &source).unwrap();

        let refused = bind(&wish);

        assert!(matches!(refused, Err(Error::Changed { .. })), "{refused:?}");
        unmake_share(folder).unwrap();
    });
}

#[test]
fn what_is_read_only_is_so_from_the_first_moment() {
    apart(|folder| {
        make_share(folder).unwrap();
        let wish = Bind {
            access: Access::ReadOnly,
            ..wish(folder, "1/rootfs", &source(folder, "source"))
        };

        bind(&wish).unwrap();

        let refused = fs::write(share(folder).join("1/rootfs/new"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        assert!(fs::write(folder.join("source/new"), "").is_ok());
        unmake_share(folder).unwrap();
    });
}

#[test]
fn taking_a_tree_away_leaves_the_mounts_of_its_source_alone() {
    apart(|folder| {
        let source = source(folder, "source");
        let inner = source.join("inner");
        fs::create_dir(&inner).unwrap();
        rustix::mount::mount(
            "none",
            &inner,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        fs::write(inner.join("kept"), "").unwrap();
        make_share(folder).unwrap();
        bind(&wish(folder, "1/rootfs", &source)).unwrap();
        assert!(share(folder).join("1/rootfs/inner/kept").exists());

        unbind(folder, "1/rootfs").unwrap();
        assert!(inner.join("kept").exists());

        bind(&wish(folder, "1/rootfs", &source)).unwrap();
        unmake_share(folder).unwrap();
        assert!(inner.join("kept").exists());
        assert_eq!(mounts(folder).len(), 1, "{:#?}", mounts(folder));
    });
}

#[test]
fn another_namespace_sees_what_comes_and_what_goes_and_it_appears_nowhere_else() {
    apart(|folder| {
        let source = source(folder, "source");
        make_share(folder).unwrap();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let place = share(folder).join("1/rootfs");
        let virtiofsd = thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            mount_change("/", slave).unwrap();
            tell.send(false).unwrap();
            while asked.recv().is_ok() {
                tell.send(is_mounted(&place).unwrap()).unwrap();
            }
        });
        told.recv().unwrap();
        let seen = || {
            ask.send(()).unwrap();
            told.recv().unwrap()
        };

        assert!(!seen());
        bind(&wish(folder, "1/rootfs", &source)).unwrap();
        assert!(seen());
        assert!(!is_mounted(&tree(folder).join("1/rootfs")).unwrap());
        unbind(folder, "1/rootfs").unwrap();
        assert!(!seen());

        drop(ask);
        virtiofsd.join().unwrap();
        unmake_share(folder).unwrap();
    });
}

#[test]
fn what_is_in_use_goes_at_once_and_stays_with_whoever_uses_it() {
    apart(|folder| {
        make_share(folder).unwrap();
        bind(&wish(folder, "1/rootfs", &source(folder, "source"))).unwrap();
        let mut held = fs::File::open(share(folder).join("1/rootfs/file")).unwrap();

        unbind(folder, "1/rootfs").unwrap();

        assert!(!share(folder).join("1").exists());
        let mut text = String::new();
        io::Read::read_to_string(&mut held, &mut text).unwrap();
        assert_eq!(text, "text");
        unmake_share(folder).unwrap();
    });
}

#[test]
fn a_share_and_its_binds_are_left_out_of_a_bind_of_all_around_it() {
    apart(|folder| {
        // A file system of its own stands for the host's: nothing else can come to harm.
        let (host, copy) = (folder.join("host"), folder.join("copy"));
        for place in [&host, &copy] {
            fs::create_dir(place).unwrap();
        }
        mount("none", &host, "tmpfs", MountFlags::empty(), None).unwrap();
        let (source, sandbox) = (source(&host, "source"), host.join("sandbox"));
        fs::create_dir(&sandbox).unwrap();
        make_share(&sandbox).unwrap();
        bind(&wish(&sandbox, "1/rootfs", &source)).unwrap();

        mount_bind_recursive(&host, &copy).unwrap();

        assert_eq!(mounts(&copy).len(), 1, "{:#?}", mounts(&copy));
        unbind(&sandbox, "1/rootfs").unwrap();
        unmake_share(&sandbox).unwrap();
        assert_eq!(mounts(&sandbox), [""; 0]);
        for place in [&copy, &host] {
            unmount(place, UnmountFlags::empty()).unwrap();
        }
    });
}

#[test]
fn a_share_that_stands_on_nothing_yet_is_finished() {
    apart(|folder| {
        make_share(folder).unwrap();
        let whole = mounts(folder);
        // As after a crash between the two mounts.
        unmount(share(folder), UnmountFlags::empty()).unwrap();
        mount_change(share(folder), MountPropagationFlags::PRIVATE).unwrap();

        make_share(folder).unwrap();

        let points = |lines: &[String]| -> Vec<String> {
            let of = |line: &String| {
                line.split(' ')
                    .skip(4)
                    .take(3)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            lines
                .iter()
                .map(|line| of(line).split(" shared").next().unwrap().to_owned())
                .collect()
        };
        assert_eq!(points(&mounts(folder)), points(&whole));
        assert_eq!(whole.len(), 2, "{whole:#?}");
    });
}
