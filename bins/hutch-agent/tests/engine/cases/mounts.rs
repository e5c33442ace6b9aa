//! What mounts are, by their options and their order.

use crate::bed::{Bed, config, disk, with};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

super::cases![
    mounts_have_what_their_options_say,
    a_folder_and_a_file_of_the_guest_are_bound,
    a_source_of_the_guest_takes_the_place_of_the_hosts,
    what_is_mounted_below_comes_along_and_can_be_read_only_too,
    a_tmpfs_keeps_the_mode_of_what_it_covers,
    a_tmpfs_has_the_mode_that_was_asked_for,
    a_tmpfs_can_begin_with_what_it_covers,
    a_tmpfs_begins_with_what_it_covers_in_an_image_that_cannot_be_written,
    a_destination_that_is_not_absolute_is_taken_from_the_root,
    a_tmpfs_is_as_large_as_it_says,
    every_word_for_a_mount_has_its_effect,
    words_for_a_whole_tree_reach_what_is_mounted_below,
    a_mount_can_be_changed_by_a_second_one,
    propagation_is_as_each_mount_and_the_root_say,
    what_is_shared_outside_is_followed_by_a_slave,
    a_bind_can_have_mapped_ids,
    ids_that_cannot_be_mapped_are_named,
];

fn mounts_have_what_their_options_say() {
    let bed = Bed::make();

    let outcome = bed.shell("cut -d ' ' -f 5- /proc/self/mountinfo");

    let line = |destination: &str| {
        let found = outcome
            .out
            .lines()
            .rfind(|line| line.split(' ').next() == Some(destination));
        found.unwrap_or_else(|| panic!("nothing on {destination}: {}", outcome.out))
    };
    let has = |destination: &str, words: &[&str]| {
        for word in words {
            let there = line(destination).split([' ', ',']).any(|one| one == *word);
            assert!(there, "{word} in {}", line(destination));
        }
    };
    has("/proc", &["proc", "nosuid", "nodev", "noexec", "rw"]);
    has("/dev", &["tmpfs", "nosuid", "size=65536k", "mode=755"]);
    has("/dev/pts", &["devpts", "gid=5", "mode=620", "ptmxmode=666"]);
    has("/dev/shm", &["tmpfs", "nosuid", "noexec", "nodev"]);
    has("/dev/mqueue", &["mqueue"]);
    has("/sys", &["sysfs", "ro"]);
    has("/sys/fs/cgroup", &["cgroup2", "ro", "relatime"]);
}

fn a_folder_and_a_file_of_the_guest_are_bound() {
    let bed = Bed::make();
    let outside = bed.outside();
    fs::write(outside.join("file"), "text").unwrap();
    let config = config(&[
        "/bin/sh",
        "-c",
        "cat /data/file /etc/one; echo new >/data/new; echo x >/etc/one; touch /data/deny",
    ]);
    let folder = json!({"destination": "/data", "source": outside, "options": ["rbind"]});
    let file = json!({
        "destination": "/etc/one", "type": "bind", "source": outside.join("file"),
        "options": ["ro", "nosuid", "nodev"],
    });

    let outcome = bed.run(&with(with(config, "/mounts/-", folder), "/mounts/-", file));

    assert_eq!(outcome.out, "texttext");
    assert!(
        outcome.err.contains("/etc/one: Read-only file system"),
        "{outcome:?}"
    );
    assert_eq!(fs::read_to_string(outside.join("new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "text");
}

fn a_source_of_the_guest_takes_the_place_of_the_hosts() {
    let bed = Bed::make();
    let outside = bed.outside();
    fs::write(outside.join("file"), "guest").unwrap();
    let mount = json!({"destination": "/d", "source": "/host/path", "options": ["bind"]});
    let config = with(config(&["/bin/cat", "/d/file"]), "/mounts/-", mount);
    let mut plan = bed.plan("c", &config);
    plan.bind_sources.insert(7, outside);

    let running = bed.create_as_planned(plan).unwrap();
    bed.start("c").unwrap();

    assert_eq!(running.finish().out, "guest");
    bed.engine.remove("c").unwrap();
}

fn what_is_mounted_below_comes_along_and_can_be_read_only_too() {
    use rustix::mount::{MountFlags, mount};
    let bed = Bed::make();
    let outside = bed.outside();
    fs::create_dir(outside.join("below")).unwrap();
    mount(
        c"tmpfs",
        outside.join("below"),
        c"tmpfs",
        MountFlags::empty(),
        None,
    )
    .unwrap();
    fs::write(outside.join("below/file"), "deep").unwrap();
    let line = "cat /a/below/file; touch /a/x /a/below/x; touch /b/x; touch /b/below/y";
    let config = config(&["/bin/sh", "-c", line]);
    let top = json!({"destination": "/a", "source": outside, "options": ["rbind", "rro"]});
    let one = json!({"destination": "/b", "source": outside, "options": ["rbind", "ro"]});

    let outcome = bed.run(&with(with(config, "/mounts/-", top), "/mounts/-", one));

    assert_eq!(outcome.out, "deep");
    let refused: Vec<&str> = outcome
        .err
        .lines()
        .map(|line| line.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(refused, ["/a/x", "/a/below/x", "/b/x"], "{outcome:?}");
    assert!(outside.join("below/y").exists());
}

fn a_tmpfs_keeps_the_mode_of_what_it_covers() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::make();
    let tmp = bed.rootfs().join("tmp");
    fs::set_permissions(&tmp, PermissionsExt::from_mode(0o1755)).unwrap();
    let mount = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"});

    let config = with(
        config(&["/bin/stat", "-c", "%a", "/tmp"]),
        "/mounts/-",
        mount,
    );
    let outcome = bed.run(&config);

    assert_eq!(outcome.out, "1755\n");
    assert_eq!(fs::metadata(tmp).unwrap().mode() & 0o7777, 0o1755);
}

fn a_tmpfs_has_the_mode_that_was_asked_for() {
    let bed = Bed::make();
    for name in ["there", "copied", "plain"] {
        let folder = bed.rootfs().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o750)).unwrap();
        std::os::unix::fs::chown(&folder, Some(7), Some(8)).unwrap();
    }
    let line = "stat -c '%a %u:%g' /there /copied /plain /new /new-copied /new-plain";
    let mut config = config(&["/bin/sh", "-c", line]);
    for (destination, options) in [
        ("/there", json!(["mode=1777"])),
        ("/copied", json!(["mode=1770", "uid=5", "tmpcopyup"])),
        ("/plain", json!(["tmpcopyup", "size=1m"])),
        ("/new", json!(["mode=1777"])),
        ("/new-copied", json!(["tmpcopyup", "mode=1711"])),
        ("/new-plain", json!([])),
    ] {
        let mount = json!({"destination": destination, "type": "tmpfs", "source": "tmpfs",
            "options": options});
        config = with(config, "/mounts/-", mount);
    }

    let outcome = bed.run(&config);

    let expected = "1777 0:0\n1770 5:8\n750 7:8\n1777 0:0\n1711 0:0\n1777 0:0\n";
    assert_eq!(outcome.out, expected, "{outcome:?}");
}

fn a_tmpfs_can_begin_with_what_it_covers() {
    let bed = Bed::make();
    let opt = bed.rootfs().join("opt");
    fs::create_dir_all(opt.join("a/b")).unwrap();
    fs::write(opt.join("a/b/file"), "deep").unwrap();
    std::os::unix::fs::chown(opt.join("a"), Some(7), Some(8)).unwrap();
    fs::set_permissions(opt.join("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/passwd", opt.join("link")).unwrap();
    let line = "cat /opt/a/b/file; stat -c ' %u:%g' /opt/a; stat -c %a /opt/a/b/file; \
                readlink /opt/link; echo new >/opt/new && cat /opt/new; echo x >/ro/x; ls /ro";
    let config = config(&["/bin/sh", "-c", line]);
    let copied = json!({"destination": "/opt", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "size=1m"]});
    fs::create_dir(bed.rootfs().join("ro")).unwrap();
    fs::write(bed.rootfs().join("ro/kept"), "").unwrap();
    let readonly = json!({"destination": "/ro", "type": "tmpfs", "source": "tmpfs",
        "options": ["ro", "tmpcopyup"]});

    let outcome = bed.run(&with(
        with(config, "/mounts/-", copied),
        "/mounts/-",
        readonly,
    ));

    assert_eq!(
        outcome.out, "deep 7:8\n4711\n/etc/passwd\nnew\nkept\n",
        "{outcome:?}"
    );
    assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
    assert!(!opt.join("new").exists());
}

fn a_tmpfs_begins_with_what_it_covers_in_an_image_that_cannot_be_written() {
    use rustix::mount::{MountFlags, mount_bind, mount_remount};
    let bed = Bed::make();
    let opt = bed.rootfs().join("opt");
    fs::create_dir_all(opt.join("a/below")).unwrap();
    fs::write(opt.join("a/file"), "deep\n").unwrap();
    symlink("a/file", opt.join("link")).unwrap();
    fs::write(opt.join("a/below/hidden"), "").unwrap();
    mount_bind(bed.rootfs(), bed.rootfs()).unwrap();
    mount_remount(bed.rootfs(), MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    let line = "cat /opt/link; ls /opt/a/below; stat -c %a /late; echo new >/opt/a/new; \
                cat /opt/a/new; touch /x";
    let mut config = config(&["/bin/sh", "-c", line]);
    for mount in [
        json!({"destination": "/opt/a/below", "type": "tmpfs", "source": "tmpfs", "options": []}),
        json!({"destination": "/opt", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "mode=1777"]}),
        // Not in the image, which therefore gets an empty layer above it.
        json!({"destination": "/late", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "mode=1777"]}),
    ] {
        config = with(config, "/mounts/-", mount);
    }

    let outcome = bed.run(&with(config, "/root/readonly", json!(true)));

    assert_eq!(outcome.out, "deep\n1777\nnew\n", "{outcome:?}");
    assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
}

fn a_destination_that_is_not_absolute_is_taken_from_the_root() {
    let bed = Bed::make();
    let config = config(&["/bin/stat", "-f", "-c", "%T", "/data"]);
    let mount = json!({"destination": "data", "type": "tmpfs", "source": "tmpfs"});

    let running = bed.create("c", &with(config, "/mounts/-", mount)).unwrap();
    bed.start("c").unwrap();

    assert_eq!(
        running.created.warnings,
        [r#"mount 7 on "data": its destination is not absolute, taken from /"#]
    );
    assert_eq!(running.finish().out, "tmpfs\n");
    bed.engine.remove("c").unwrap();
}

fn a_tmpfs_is_as_large_as_it_says() {
    let bed = Bed::make();
    let line = "for f in /data/x /dev/shm/x; do \
                dd if=/dev/zero of=$f bs=64k count=64 2>/dev/null; stat -c %s $f; done; \
                stat -c %a /data /dev/shm";
    let config = config(&["/bin/sh", "-c", line]);
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["size=1m", "mode=0710"]});
    let config = with(
        config,
        "/mounts/3/options",
        json!(["mode=1777", "size=131072"]),
    );

    let outcome = bed.run(&with(config, "/mounts/-", mount));

    assert_eq!(outcome.out, "1048576\n131072\n710\n1777\n", "{outcome:?}");
}

/// The words of the line for that destination in mountinfo.
fn words_of(mountinfo: &str, destination: &str) -> Vec<String> {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(destination))
        .unwrap_or_else(|| panic!("nothing on {destination}: {mountinfo}"));
    line.split([' ', ',']).map(str::to_owned).collect()
}

fn every_word_for_a_mount_has_its_effect() {
    let bed = Bed::make();
    let outside = bed.outside();
    let table: [(&[&str], &[&str], &[&str]); 11] = [
        (&["ro"], &["ro"], &["rw"]),
        (&["ro", "rw"], &["rw"], &["ro"]),
        (
            &["nosuid", "nodev", "noexec"],
            &["nosuid", "nodev", "noexec"],
            &[],
        ),
        (
            &["nosuid", "suid", "nodev", "dev", "noexec", "exec"],
            &[],
            &["nosuid", "nodev", "noexec"],
        ),
        (&["noatime"], &["noatime"], &["relatime"]),
        (&["noatime", "atime"], &["relatime"], &["noatime"]),
        (&["strictatime"], &[], &["relatime", "noatime"]),
        (&["strictatime", "nostrictatime"], &["relatime"], &[]),
        (&["noatime", "norelatime"], &["relatime"], &["noatime"]),
        (&["nodiratime"], &["nodiratime"], &[]),
        (&["nosymfollow"], &["nosymfollow"], &[]),
    ];
    let mut all = config(&["/bin/cat", "/proc/self/mountinfo"]);
    for (number, (options, _, _)) in table.iter().enumerate() {
        let new = json!({"destination": format!("/new-{number}"), "type": "tmpfs",
            "source": "tmpfs", "options": options});
        let bound: Vec<&str> = ["bind"]
            .into_iter()
            .chain(options.iter().copied())
            .collect();
        let bound = json!({"destination": format!("/bound-{number}"), "source": outside,
            "options": bound});
        all = with(with(all, "/mounts/-", new), "/mounts/-", bound);
    }

    let outcome = bed.run(&all);

    for (number, (options, has, has_not)) in table.iter().enumerate() {
        for destination in [format!("/new-{number}"), format!("/bound-{number}")] {
            // Its own, which end before the dash: those of the file system come after.
            let words = words_of(&outcome.out, &destination);
            let own: Vec<&str> = words
                .iter()
                .map(String::as_str)
                .take_while(|word| *word != "-")
                .collect();
            let good = has.iter().all(|word| own.contains(word))
                && has_not.iter().all(|word| !own.contains(word));
            assert!(good, "{options:?} on {destination}: {own:?}");
        }
    }
}

fn words_for_a_whole_tree_reach_what_is_mounted_below() {
    use rustix::mount::{MountFlags, mount};
    let bed = Bed::make();
    let outside = bed.outside();
    fs::create_dir(outside.join("below")).unwrap();
    let below = outside.join("below");
    mount(c"tmpfs", &below, c"tmpfs", MountFlags::NOATIME, None).unwrap();
    let words = [
        "rnosuid",
        "rnodev",
        "rnoexec",
        "rnosymfollow",
        "rrelatime",
        "rro",
    ];
    let back = ["rro", "rrw", "rnosuid", "rsuid", "rnodiratime"];
    let mut config = config(&["/bin/cat", "/proc/self/mountinfo"]);
    for (destination, options) in [("/a", &words[..]), ("/b", &back[..])] {
        let options = [&["rbind"], options].concat();
        let mount = json!({"destination": destination, "source": outside, "options": options});
        config = with(config, "/mounts/-", mount);
    }

    let outcome = bed.run(&config);

    for destination in ["/a", "/a/below"] {
        let has = words_of(&outcome.out, destination);
        for word in ["nosuid", "nodev", "noexec", "nosymfollow", "relatime", "ro"] {
            assert!(has.iter().any(|one| one == word), "{word}: {has:?}");
        }
    }
    let has = words_of(&outcome.out, "/b/below");
    assert!(has.iter().any(|one| one == "nodiratime"), "{has:?}");
    assert!(
        has.iter().all(|one| one != "ro" && one != "nosuid"),
        "{has:?}"
    );
}

fn a_mount_can_be_changed_by_a_second_one() {
    let bed = Bed::make();
    let config = config(&["/bin/cat", "/proc/self/mountinfo"]);
    let first = json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs"});
    let second = json!({"destination": "/x", "source": "none", "type": "none",
        "options": ["remount", "ro", "nodev", "size=64k"]});

    let outcome = bed.run(&with(with(config, "/mounts/-", first), "/mounts/-", second));

    let words = words_of(&outcome.out, "/x");
    for word in ["ro", "nodev", "size=64k"] {
        assert!(words.iter().any(|one| one == word), "{word}: {words:?}");
    }
}

/// What the mounts of a container that lists them on stdout, its root and `/x`, have to do with
/// others.
fn kinds_of_propagation(bed: &Bed, root: &str, source: &Path, options: &[&str]) -> [String; 2] {
    let config = config(&["/bin/cat", "/proc/self/mountinfo"]);
    let mount = json!({"destination": "/x", "source": source, "options": options});
    let config = with(config, "/mounts/-", mount);
    let outcome = bed.run(&with(config, "/linux/rootfsPropagation", json!(root)));
    ["/", "/x"].map(|destination| {
        let words = words_of(&outcome.out, destination);
        let optional = words.iter().take_while(|word| *word != "-");
        let mut kinds: Vec<&str> = optional
            .filter_map(|word| word.split(':').next())
            .filter(|kind| ["shared", "master", "unbindable"].contains(kind))
            .collect();
        kinds.sort_unstable();
        kinds.join(",")
    })
}

fn propagation_is_as_each_mount_and_the_root_say() {
    let bed = Bed::make();
    let outside = bed.outside();
    let shown = |root: &str, options: &[&str]| kinds_of_propagation(&bed, root, &outside, options);

    assert_eq!(shown("private", &["rbind", "rprivate"]), ["", ""]);
    assert_eq!(shown("shared", &["bind", "shared"])[0], "shared");
    assert_eq!(shown("private", &["rbind", "rshared"])[1], "shared");
    assert_eq!(
        shown("unbindable", &["bind", "unbindable"]),
        ["unbindable", "unbindable"]
    );
    // What has nobody to follow is private.
    assert_eq!(shown("slave", &["bind", "slave"]), ["", ""]);
    assert_eq!(
        shown("private", &["rbind", "shared", "slave", "shared"])[1],
        "shared"
    );
    assert_eq!(
        shown("rprivate", &["rbind", "rshared"])[1],
        "",
        "the root's comes last, and reaches all"
    );
}

/// Both the root and a folder are mounts with peers here, which those of a container can follow.
fn what_is_shared_outside_is_followed_by_a_slave() {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change,
    };
    let bed = Bed::make();
    let source = bed.outside();
    mount(c"tmpfs", &source, c"tmpfs", MountFlags::empty(), None).unwrap();
    mount_bind_recursive(bed.rootfs(), bed.rootfs()).unwrap();
    for path in [source.as_path(), bed.rootfs()] {
        mount_change(path, MountPropagationFlags::SHARED).unwrap();
    }
    let shown = |root: &str, options: &[&str]| kinds_of_propagation(&bed, root, &source, options);

    for (word, root) in [
        ("slave", "master"),
        ("rslave", "master"),
        ("shared", "master,shared"),
        ("private", ""),
    ] {
        assert_eq!(shown(word, &["bind"])[0], root, "{word}");
    }
    for (words, kinds) in [
        (&["slave"][..], "master"),
        (&["shared"], "master,shared"),
        (&["shared", "slave"], "master"),
        (&["shared", "rslave"], "master"),
        (&["private"], ""),
        (&["private", "slave"], ""),
    ] {
        let options = [&["rbind"], words].concat();
        assert_eq!(shown("private", &options)[1], kinds, "{words:?}");
    }
}

fn a_bind_can_have_mapped_ids() {
    if !super::limits::has_controllers() {
        return;
    }
    let bed = Bed::make();
    let disk = disk(&bed.outside());
    fs::write(disk.join("file"), "").unwrap();
    for path in [&disk, &disk.join("file")] {
        std::os::unix::fs::chown(path, Some(1000), Some(2000)).unwrap();
    }
    let line = "stat -c %u:%g /own/file; stat -c %u:%g /plain/file; touch /own/new; \
                stat -c %u:%g /plain/new";
    let own = json!({"destination": "/own", "source": disk, "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 1000, "hostID": 0, "size": 1},
                        {"containerID": 500, "hostID": 5, "size": 1}],
        "gidMappings": [{"containerID": 2000, "hostID": 0, "size": 1}]});
    let plain = json!({"destination": "/plain", "source": disk, "options": ["rbind"]});
    let config = config(&["/bin/sh", "-c", line]);
    let config = with(with(config, "/mounts/-", own), "/mounts/-", plain);

    let outcome = bed.run(&config);

    assert_eq!(outcome.out, "0:0\n1000:2000\n1000:2000\n", "{outcome:?}");
}

fn ids_that_cannot_be_mapped_are_named() {
    let bed = Bed::make();
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let config = config(&["/bin/true"]);
    let mount = json!({"destination": "/x", "source": "/proc", "options": ["bind", "idmap"],
        "uidMappings": map, "gidMappings": map});

    let refused = bed.refusal(&with(config, "/mounts/-", mount));

    assert_eq!(
        refused,
        r#"mount 7 on "/x": the file system of its source cannot have mapped ids"#
    );
}
