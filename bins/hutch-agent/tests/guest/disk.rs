//! Root file systems that come as disks.

use super::{
    house::config,
    link::{Link, deadline},
    vm::{Vm, Wanted, asked, lay_rootfs},
};
use protocols::asynchronous::hutch_agent::{
    BlockRootfs, CreateRequest, NextExitsRequest, RemoveRequest, Rootfs, StartRequest, rootfs,
};
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
    let disk = |name: &str, path: &Path| {
        let path = path.display();
        format!(
            "-drive if=none,id={name},file={path},format=raw \
             -device virtio-blk-pci,drive={name},serial=root-{name}"
        )
    };
    let vm = Vm::boot(Wanted {
        devices: vec![disk("one", &ext4), disk("two", &erofs)],
        ..Wanted::default()
    });
    let link = Link::open(&vm, Padding::None).await;

    let mut seq = 0;
    for (serial, kind, script, code) in [
        ("root-one", "ext4", "echo kept > /tmp/x && exit 3", 3),
        ("root-one", "ext4", "[ $(cat /tmp/x) = kept ] && exit 4", 4),
        ("root-two", "erofs", "! echo lost > /tmp/x && exit 5", 5),
    ] {
        let create = request("web", serial, kind, script);
        link.agent.create(deadline(), &create).await.unwrap();
        let start = StartRequest {
            container_id: "web".to_owned(),
            ..StartRequest::default()
        };
        link.agent.start(deadline(), &start).await.unwrap();
        let next = NextExitsRequest {
            after: seq,
            wait_ms: 30_000,
            ..NextExitsRequest::default()
        };
        let exits = link
            .agent
            .next_exits(deadline(), &next)
            .await
            .unwrap()
            .exits;
        seq += 1;
        assert_eq!(
            (exits[0].seq, exits[0].code),
            (seq, code),
            "{kind}: {script}"
        );
        let remove = RemoveRequest {
            container_id: "web".to_owned(),
            ..RemoveRequest::default()
        };
        link.agent.remove(deadline(), &remove).await.unwrap();
    }

    let wrong = request("web", "root-two", "ext4", "exit 0");
    let refused = link.agent.create(deadline(), &wrong).await.unwrap_err();
    assert!(
        refused.to_string().contains("mount ext4 of /dev/vd"),
        "{refused}"
    );
}
