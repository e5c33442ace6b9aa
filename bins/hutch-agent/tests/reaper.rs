//! Reaping takes every child of a process, so its test has a process of its own.

#![allow(clippy::unwrap_used)]

use hutch_agent::{exits::Reason, reaper::reap};
use std::{process::Command, time::Duration};
use tokio::{select, sync::mpsc, time::timeout};

/// Nothing that should come may take longer, even on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_child_is_told_of_with_its_code_or_signal() {
    let wanted = [
        ("exit 0", 0, Reason::Exited),
        ("exit 7", 7, Reason::Exited),
        ("kill -TERM $$", 128 + 15, Reason::Signaled),
        // A real-time signal, which not every library has a name for.
        ("kill -40 $$", 128 + 40, Reason::Signaled),
    ];
    let started = wanted.map(|(script, code, reason)| {
        let mut shell = Command::new("/bin/sh");
        let pid = shell.args(["-c", script]).spawn().unwrap().id();
        (pid, code, reason)
    });
    let (tell, mut told) = mpsc::unbounded_channel();

    let reaping = reap(move |pid, ended| tell.send((pid, ended.code, ended.reason)).unwrap());
    let collecting = async {
        let mut ends = Vec::new();
        while ends.len() < wanted.len() {
            ends.push(told.recv().await.unwrap());
        }
        ends
    };
    let ends = timeout(LIMIT, async {
        select! {
            failed = reaping => panic!("{failed:?}"),
            ends = collecting => ends,
        }
    });

    let mut ends = ends.await.unwrap();
    ends.sort_by_key(|(pid, ..)| started.iter().position(|(started, ..)| started == pid));
    assert_eq!(ends, started);
}
