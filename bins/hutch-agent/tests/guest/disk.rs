//! Root file systems that come as disks.

use super::{
    house::config,
    link::{Link, deadline},
    vm::{Vm, Wanted, asked, lay_rootfs},
};
use protocols::asynchronous::hutch_agent::{
    BlockRootfs, CreateRequest, HostDisk, NextExitsRequest, RemoveRequest, Rootfs, StartRequest,
    host_disk, rootfs,
};
use serde_json::json;
use std::{path::Path, process::Command};
use stream::Padding;

fn make(program: &str, words: &[&str], from: &Path, image: &Path) {
    let (from, image) = (from.to_str().unwrap(), image.to_str().unwrap());
    let words = words.iter().map(|word| match *word {
        "FROM" => from,
        "IMAGE" => image,
        word => word,
    });
    let made = Command::new(program).args(words).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

fn request(id: &str, serial: &str, fs_type: &str, script: &str) -> CreateRequest {
    let block = BlockRootfs {
        serial: serial.to_owned(),
        fs_type: fs_type.to_owned(),
        read_only: fs_type == "erofs",
        ..BlockRootfs::default()
    };
    CreateRequest {
        container_id: id.to_owned(),
        config_json: config(&["/bin/sh", "-c", script], false)
            .to_string()
            .into_bytes(),
        rootfs: Some(Rootfs {
            source: Some(rootfs::Source::Block(block)),
            ..Rootfs::default()
        })
        .into(),
        ..CreateRequest::default()
    }
}

fn disk(serial: &str, path: &Path, read_only: &str) -> String {
    let path = path.display();
    format!(
        "-drive if=none,id={serial},file={path},format=raw,read-only={read_only} \
         -device virtio-blk-pci,drive={serial},serial={serial}"
    )
}

/// Creates, starts, waits for the exit after that number, removes. Gives the exit code.
async fn run(link: &Link, create: &CreateRequest, after: u64) -> u32 {
    link.agent.create(deadline(), create).await.unwrap();
    let start = StartRequest {
        container_id: create.container_id.clone(),
        ..StartRequest::default()
    };
    link.agent.start(deadline(), &start).await.unwrap();
    let next = NextExitsRequest {
        after,
        wait_ms: 30_000,
        ..NextExitsRequest::default()
    };
    let exits = link.agent.next_exits(deadline(), &next).await;
    let exits = exits.unwrap().exits;
    assert_eq!(exits[0].seq, after + 1);
    let remove = RemoveRequest {
        container_id: create.container_id.clone(),
        ..RemoveRequest::default()
    };
    link.agent.remove(deadline(), &remove).await.unwrap();
    exits[0].code
}

#[tokio::test]
async fn a_container_runs_from_an_ext4_and_from_an_erofs_disk() {
    if !asked() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (tree, ext4, erofs) = (
        folder.path().join("tree"),
        folder.path().join("ext4"),
        folder.path().join("erofs"),
    );
    lay_rootfs(&tree);
    make(
        "mkfs.ext4",
        &["-q", "-d", "FROM", "IMAGE", "16M"],
        &tree,
        &ext4,
    );
    make("mkfs.erofs", &["--quiet", "IMAGE", "FROM"], &tree, &erofs);
    let vm = Vm::boot(Wanted {
        devices: vec![
            disk("root-one", &ext4, "off"),
            disk("root-two", &erofs, "off"),
        ],
        ..Wanted::default()
    });
    let link = Link::open(&vm, Padding::None).await;

    let stories = [
        ("root-one", "ext4", "echo kept > /tmp/x && exit 3", 3),
        ("root-one", "ext4", "[ $(cat /tmp/x) = kept ] && exit 4", 4),
        ("root-two", "erofs", "! echo lost > /tmp/x && exit 5", 5),
    ];
    for (seq, (serial, kind, script, code)) in (0..).zip(stories) {
        let create = request("web", serial, kind, script);
        let exit = run(&link, &create, seq).await;
        assert_eq!(exit, code, "{kind}: {script}");
    }

    let wrong = request("web", "root-two", "ext4", "exit 0");
    let refused = link.agent.create(deadline(), &wrong).await.unwrap_err();
    assert!(
        refused.to_string().contains("mount ext4 of /dev/vd"),
        "{refused}"
    );
}

const LOOKS_AT_ITS_DISKS: &str = "\
    cd /bin; PATH=/bin; b=/bin/busybox; \
    $b grep -q '^/dev/vd. /late/data ext4 rw,nosuid,noexec,' /proc/mounts || exit 11; \
    echo kept >/late/data/x || exit 12; \
    $b grep -q '^/dev/vd. /dev/once ext4 ro,' /proc/mounts || exit 13; \
    [ \"$(head -n 1 /late/raw)\" = raw ] || exit 14; \
    [ \"$(head -n 1 /dev/xvda)\" = raw ] || exit 15; \
    [ \"$($b stat -c '%a %u:%g' /dev/xvda)\" = '640 7:8' ] || exit 16; \
    echo lost >/dev/xvda && exit 17; \
    $b mknod /dev/other b 254 0 || exit 18; \
    head -n 1 /dev/other && exit 19; \
    exit 3";

/// The root is read-only and lacks the destinations: they are in a layer above it.
#[tokio::test]
async fn disks_of_the_host_are_volumes_and_devices_of_a_container() {
    if !asked() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    lay_rootfs(&file("tree"));
    make(
        "mkfs.erofs",
        &["--quiet", "IMAGE", "FROM"],
        &file("tree"),
        &file("erofs"),
    );
    std::fs::create_dir(file("empty")).unwrap();
    make(
        "mkfs.ext4",
        &["-q", "-d", "FROM", "IMAGE", "16M"],
        &file("empty"),
        &file("ext4"),
    );
    make(
        "mkfs.ext4",
        &["-q", "-d", "FROM", "IMAGE", "16M"],
        &file("empty"),
        &file("once"),
    );
    std::fs::write(file("raw"), format!("raw\n{}", "x".repeat(4092))).unwrap();
    let vm = Vm::boot(Wanted {
        devices: vec![
            disk("root", &file("erofs"), "on"),
            disk("data", &file("ext4"), "off"),
            disk("once", &file("once"), "on"),
            disk("raw", &file("raw"), "on"),
        ],
        ..Wanted::default()
    });
    let link = Link::open(&vm, Padding::None).await;
    let plugged = |serial: &str, purpose: host_disk::Purpose, read_only| HostDisk {
        serial: serial.to_owned(),
        read_only,
        purpose: Some(purpose),
        ..HostDisk::default()
    };
    let mut create = request("web", "root", "erofs", LOOKS_AT_ITS_DISKS);
    let mut config = config(&["/bin/sh", "-c", LOOKS_AT_ITS_DISKS], false);
    let mounts = config["mounts"].as_array_mut().unwrap();
    let first = u32::try_from(mounts.len()).unwrap();
    mounts.extend([
        json!({"destination": "/dev/once", "type": "ext4", "source": "/img/once", "options": ["ro"]}),
        json!({"destination": "/late/data", "type": "ext4", "source": "/img/data",
            "options": ["nosuid", "noexec", "data=ordered"]}),
        json!({"destination": "/late/raw", "type": "bind", "source": "/dev/loop9", "options": ["ro"]}),
    ]);
    config["linux"]["devices"] = json!([{"path": "/dev/xvda", "type": "b", "major": 7, "minor": 9,
        "fileMode": 0o640, "uid": 7, "gid": 8}]);
    config["linux"]["resources"] = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "major": 7, "minor": 9, "access": "r"},
    ]});
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
    }
    create.host_disks = vec![
        plugged("once", host_disk::Purpose::Mount(first), true),
        plugged("data", host_disk::Purpose::Mount(first + 1), false),
        plugged("raw", host_disk::Purpose::Mount(first + 2), true),
        plugged("raw", host_disk::Purpose::Device(0), true),
    ];
    create.config_json = config.to_string().into_bytes();

    assert_eq!(run(&link, &create, 0).await, 3);

    config["mounts"][first as usize + 1]["options"] = json!(["nonsense=1"]);
    create.config_json = config.to_string().into_bytes();
    let refused = link.agent.create(deadline(), &create).await;
    let refused = refused.unwrap_err().to_string();
    for word in ["/late/data", "mount ext4 of /dev/vd", "nonsense=1"] {
        assert!(refused.contains(word), "{refused}");
    }
}
