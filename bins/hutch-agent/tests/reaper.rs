//! Reaping takes every child of a process, and hears of them where no thread takes the signal: so its test has a process of
//! its own, with one thread.

#![allow(
    clippy::unwrap_used,
    reason = "a test, though one that the compiler does not know as such"
)]

use hutch_agent::{
    exits::Reason,
    reaper::{Ends, reap},
};
use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, ExitCode},
    time::Duration,
};
use tokio::{runtime::Builder, select, sync::mpsc, time::timeout};

/// Nothing that should come may take longer, even on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);
const NAME: &str = "every_child_is_told_of_with_its_code_or_signal";

/// As the usual harness does it.
fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    let mut wanted = words
        .iter()
        .filter(|word| !word.starts_with('-'))
        .peekable();
    let is_wanted = wanted.peek().is_none() || wanted.any(|word| NAME.contains(word.as_str()));
    if !is_wanted {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out");
        return ExitCode::SUCCESS;
    }
    let ends = Ends::listen().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let test = || runtime.block_on(every_child_is_told_of_with_its_code_or_signal(ends));
    match catch_unwind(AssertUnwindSafe(test)) {
        Ok(()) => {
            println!("test {NAME} ... ok");
            println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("test {NAME} ... FAILED");
            println!("test result: FAILED. 0 passed; 1 failed; 0 ignored");
            ExitCode::FAILURE
        }
    }
}

async fn every_child_is_told_of_with_its_code_or_signal(ends: Ends) {
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

    let reaping = reap(ends, move |pid, ended| {
        tell.send((pid, ended.code, ended.reason)).unwrap()
    });
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
