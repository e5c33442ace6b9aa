//! What a program sees of its root and of its devices.

use crate::bed::{Bed, config, with};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

super::cases![
    the_root_is_the_image_and_nothing_else,
    the_root_can_be_read_only,
    an_image_that_cannot_be_written_gets_its_mount_points_and_stays_as_it_is,
    missing_destinations_are_made_inside_the_image,
    a_link_of_the_image_leads_nowhere_outside,
    an_image_whose_proc_is_a_link_is_refused,
    masked_paths_are_empty_and_readonly_paths_stay,
    every_container_has_its_devices_and_links,
    a_device_of_the_config_is_made,
    a_bound_dev_is_left_alone,
    nothing_of_the_guest_can_be_reached,
    settings_of_the_kernel_are_the_containers_own,
];

fn the_root_is_the_image_and_nothing_else() {
    let bed = Bed::make();
    fs::write(bed.rootfs().join("etc/mark"), "here").unwrap();

    let outcome = bed.shell("cat /etc/mark; ls / | tr '\\n' ' '; head -n 1 /proc/self/mountinfo");

    assert!(
        outcome
            .out
            .starts_with("herebin dev etc home proc root sys tmp usr "),
        "{outcome:?}"
    );
    assert!(outcome.out.contains(" /rootfs / rw"), "{outcome:?}");
    assert_eq!(outcome.code, 0);
}

fn the_root_can_be_read_only() {
    let bed = Bed::make();
    let config = config(&["/bin/sh", "-c", "touch /x; touch /dev/shm/y && echo yes"]);

    let outcome = bed.run(&with(config, "/root/readonly", json!(true)));

    assert_eq!(outcome.err, "touch: /x: Read-only file system\n");
    assert_eq!(outcome.out, "yes\n");
    assert!(!bed.rootfs().join("x").exists());
}

fn an_image_that_cannot_be_written_gets_its_mount_points_and_stays_as_it_is() {
    let bed = Bed::make();
    let line = "stat -c %a /; echo x >/new/deep/y && cat /new/deep/y /etc/mark; touch /x";
    let config = config(&["/bin/sh", "-c", line]);
    let mount = json!({"destination": "/new/deep", "type": "tmpfs", "source": "tmpfs"});
    let config = with(config, "/mounts/-", mount);
    fs::write(bed.rootfs().join("etc/mark"), "here\n").unwrap();
    fs::set_permissions(bed.rootfs(), fs::Permissions::from_mode(0o711)).unwrap();
    mount_bind(bed.rootfs(), bed.rootfs()).unwrap();
    mount_remount(bed.rootfs(), MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();

    for read_only in [true, false] {
        let outcome = bed.run(&with(config.clone(), "/root/readonly", json!(read_only)));

        assert_eq!(outcome.out, "711\nx\nhere\n", "{outcome:?}");
        assert_eq!(outcome.err, "touch: /x: Read-only file system\n");
        assert!(!bed.rootfs().join("new").exists());
    }
    unmount(bed.rootfs(), UnmountFlags::empty()).unwrap();
}

fn missing_destinations_are_made_inside_the_image() {
    let bed = Bed::make();
    symlink("/run/late", bed.rootfs().join("dangling")).unwrap();
    let mount = json!({
        "destination": "/dangling/deep/er", "type": "tmpfs", "source": "tmpfs",
        "options": ["size=1m"],
    });
    let config = with(
        config(&["/bin/touch", "/run/late/deep/er/x"]),
        "/mounts/-",
        mount,
    );

    let outcome = bed.run(&config);

    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(bed.rootfs().join("run/late/deep/er").is_dir());
    assert!(!bed.rootfs().join("run/late/deep/er/x").exists());
}

fn a_link_of_the_image_leads_nowhere_outside() {
    let bed = Bed::make();
    let outside = bed.outside();
    fs::create_dir(outside.join("target")).unwrap();
    symlink(outside.join("target"), bed.rootfs().join("absolute")).unwrap();
    symlink(
        "../../../../mnt/outside/target",
        bed.rootfs().join("relative"),
    )
    .unwrap();
    symlink(
        "/proc/1/root/mnt/outside/target",
        bed.rootfs().join("magic"),
    )
    .unwrap();
    let line = "touch /absolute/a; touch /relative/b; ls /mnt/outside/target";
    let config = config(&["/bin/sh", "-c", line]);
    let tmpfs = |destination: &str| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": []});
    let harmless = with(config.clone(), "/mounts/-", tmpfs("/absolute"));
    let harmless = with(harmless, "/mounts/-", tmpfs("/relative"));

    let outcome = bed.run(&harmless);
    let refused = bed.refusal(&with(config, "/mounts/-", tmpfs("/magic/x")));

    assert_eq!(
        outcome.out, "a\nb\n",
        "both links end in the image, in the same folder"
    );
    assert_eq!(fs::read_dir(outside.join("target")).unwrap().count(), 0);
    assert_eq!(
        refused,
        r#"mount 7 on "/magic/x": find destination: too many symbolic links encountered"#
    );
}

fn an_image_whose_proc_is_a_link_is_refused() {
    let bed = Bed::make();
    fs::remove_dir(bed.rootfs().join("proc")).unwrap();
    symlink("/tmp", bed.rootfs().join("proc")).unwrap();

    let refused = bed.refusal(&config(&["/bin/true"]));

    assert_eq!(
        refused,
        r#"mount 0 on "/proc": find destination: too many symbolic links encountered"#
    );
}

fn masked_paths_are_empty_and_readonly_paths_stay() {
    let bed = Bed::make();
    let line = "cat /proc/timer_list /proc/keys | wc -c; ls -A /sys/firmware | wc -l; \
                echo x >/proc/timer_list; touch /sys/firmware/x; \
                echo 1 >/proc/sys/kernel/domainname; cat /proc/sys/kernel/hostname";

    let outcome = bed.shell(line);

    assert_eq!(outcome.out, "0\n0\nbed\n", "{outcome:?}");
    let errors: Vec<&str> = outcome.err.lines().collect();
    assert_eq!(errors.len(), 2, "{outcome:?}");
    assert!(
        errors[0].ends_with("/sys/firmware/x: Read-only file system"),
        "{outcome:?}"
    );
    assert!(errors[1].ends_with("/proc/sys/kernel/domainname: Read-only file system"));
}

fn every_container_has_its_devices_and_links() {
    let bed = Bed::make();
    let line = "cd /dev; for d in null zero full random urandom tty; do \
                  stat -c '%n %t:%T %a %F' $d; done; \
                for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done; \
                head -c 3 /dev/zero | od -An -tx1; echo x >/dev/full";

    let outcome = bed.shell(line);

    assert_eq!(
        outcome.out,
        "null 1:3 666 character special file\n\
         zero 1:5 666 character special file\n\
         full 1:7 666 character special file\n\
         random 1:8 666 character special file\n\
         urandom 1:9 666 character special file\n\
         tty 5:0 666 character special file\n\
         fd /proc/self/fd\n\
         stdin /proc/self/fd/0\n\
         stdout /proc/self/fd/1\n\
         stderr /proc/self/fd/2\n\
         ptmx pts/ptmx\n \
         00 00 00\n"
    );
    assert!(
        outcome.err.contains("No space left on device"),
        "{outcome:?}"
    );
}

fn a_device_of_the_config_is_made() {
    let bed = Bed::make();
    let config = config(&[
        "/bin/stat",
        "-c",
        "%t:%T %a %u:%g",
        "/dev/net/tun",
        "/opt/dev/zero",
    ]);
    let tun = json!({
        "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640,
        "uid": 7, "gid": 8,
    });
    let zero = json!({"path": "/opt/dev/zero", "type": "c", "major": 1, "minor": 5});

    let outcome = bed.run(&with(config, "/linux/devices", json!([tun, zero])));

    assert_eq!(outcome.out, "a:c8 640 7:8\n1:5 666 0:0\n");
}

fn a_bound_dev_is_left_alone() {
    let bed = Bed::make();
    let config = config(&["/bin/ls", "/dev"]);
    let outside = bed.outside();
    fs::write(outside.join("mine"), "").unwrap();
    let config = with(
        config,
        "/mounts",
        json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "bind", "source": outside, "options": ["rbind"]},
        ]),
    );
    let config = with(config, "/linux/maskedPaths", json!([]));

    let outcome = bed.run(&config);

    assert_eq!(outcome.out, "mine\n");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

fn nothing_of_the_guest_can_be_reached() {
    let bed = Bed::make();
    let everything = json!([
        "CAP_SYS_CHROOT",
        "CAP_SYS_ADMIN",
        "CAP_DAC_OVERRIDE",
        "CAP_MKNOD"
    ]);
    // The classical way out of a root that was only changed, not pivoted away.
    let line = "mkdir /tmp/in; chroot /tmp/in /bin/true 2>/dev/null; \
                mkdir -p /jail/bin; cp() { cat $1 >$2; }; cp /bin/busybox /jail/bin/sh; \
                ls -d /../../mnt/outside /proc/1/root/mnt/outside /proc/1/cwd/mnt/outside; \
                cut -d ' ' -f 5 /proc/self/mountinfo | grep -c -e ^/mnt -e ^/run";
    let config = config(&["/bin/sh", "-c", line]);
    let config = with(
        config,
        "/process/capabilities",
        json!({"bounding": everything, "effective": everything, "permitted": everything}),
    );
    bed.outside();

    let outcome = bed.run(&config);

    assert_eq!(outcome.out, "0\n", "{outcome:?}");
    assert_eq!(
        outcome.err.matches("No such file or directory").count(),
        3,
        "{outcome:?}"
    );
}

fn settings_of_the_kernel_are_the_containers_own() {
    let bed = Bed::make();
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let config = config(&[
        "/bin/cat",
        "/proc/sys/kernel/msgmax",
        "/proc/sys/fs/mqueue/msg_max",
        "/proc/sys/kernel/domainname",
    ]);
    let config = with(
        config,
        "/linux/sysctl",
        json!({"kernel.msgmax": "4242", "fs/mqueue/msg_max": "7"}),
    );

    let outcome = bed.run(&with(config, "/domainname", json!("example")));

    assert_eq!(outcome.out, "4242\n7\nexample\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(),
        before
    );
}
