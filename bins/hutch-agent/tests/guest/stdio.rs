//! Bytes to and from processes.

use super::{
    house::{House, config, process},
    peer::Peer,
    vm::asked,
};
use std::time::{Duration, Instant};
use stream::Resume;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn stdin_reaches_the_process_and_its_end_too() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let bytes: Vec<u8> = (0..8 * MIB).map(|n| (n / 7) as u8).collect();

    let mut peer = house.run("cat", "cat").await;
    let begun = Instant::now();
    assert_eq!(peer.feed(&bytes).await, 0);
    eprintln!("8 MiB through cat in {:?}", begun.elapsed());
    assert!(peer.stdout == bytes, "the same bytes came back");

    let mut peer = house.run("head", "head -c 10; sleep 1000").await;
    let fed = tokio::time::timeout(Duration::from_secs(5), peer.feed(&bytes)).await;
    assert!(fed.is_err(), "it still runs");
    assert_eq!(peer.stdout.len(), 10);
}

#[tokio::test]
async fn output_of_the_last_moment_comes_before_the_exit_which_waits_for_no_child() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;

    let mut peer = house.run("late", "head -c 200000 /dev/zero; exit 5").await;
    assert_eq!(peer.exit().await, 5);
    assert_eq!(peer.stdout.len(), 200_000);

    let mut web = house.run("web", "echo up; sleep 1000").await;
    web.expect("up").await;
    let script = "(sleep 1000; echo never) & echo done; exit 6";
    let mut exec = house
        .exec("web", "bg", process(&["/bin/sh", "-c", script], false))
        .await;
    assert_eq!(exec.exit().await, 6);
    assert_eq!(exec.text(), "done\n");
}

#[tokio::test]
async fn a_terminal_has_a_size_echoes_and_hears_keys() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let mut peer = house.create("tty", config(&["/bin/sh"], true)).await;
    peer.resize(33, 101);
    house.start("tty").await;

    peer.send(b"stty size\n");
    peer.expect("33 101").await;
    peer.resize(40, 80);
    peer.send(b"stty size\n");
    peer.expect("40 80").await;
    // Says that it is in the foreground, and hears a key that comes between two commands.
    peer.send(b"(trap 'exit 0' INT; echo up $((20+1)); while :; do sleep 1; done)\n");
    peer.expect("up 21").await;
    peer.send(b"\x03");
    peer.send(b"echo $((6*7)) again\n");
    peer.expect("42 again").await;
    peer.send(b"exit 9\n");
    assert_eq!(peer.exit().await, 9);
}

#[tokio::test]
async fn a_reader_that_is_replaced_loses_and_repeats_nothing() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let (name, path) = house.port();
    let script = "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n; done; exit 8";
    let request = super::house::create_request(
        "count",
        &config(&["/bin/sh", "-c", script], false),
        Some(name),
    );
    house
        .link
        .agent
        .create(super::link::deadline(), &request)
        .await
        .unwrap();
    let mut peer = Peer::connect(&path).await;
    house.start("count").await;

    peer.expect("\n500\n").await;
    let first = peer.stdout.clone();
    drop(peer);
    let resume = Resume::At {
        stdout: first.len() as u64,
        stderr: 0,
    };
    let mut peer = Peer::replace(&path, resume).await;
    assert_eq!(peer.exit().await, 8);

    let all = [first, peer.stdout].concat();
    let wanted: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    assert!(all == wanted.as_bytes(), "every number once");
}
