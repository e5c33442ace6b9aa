//! What a container and an exec cost, beside the least that any process costs. Asked for by the
//! word `measure` on a guest's kernel command line; medians of fifty.

use crate::bed::{Bed, config, exec_plan, no_streams, process, wait};
use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

pub const NAME: &str = "measure";
const ROUNDS: usize = 50;

pub fn run_apart() -> ExitCode {
    if crate::run_apart(NAME) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

pub fn run() {
    let bed = Bed::make();
    let config = config(&["/bin/true"]);
    let round = |bed: &Bed| {
        let plan = bed.plan("c", &config);
        let begin = Instant::now();
        let created = bed.engine.create(plan, no_streams()).unwrap();
        let made = begin.elapsed();
        bed.engine.start("c").unwrap();
        let started = begin.elapsed();
        wait(&created);
        let ended = begin.elapsed();
        bed.engine.remove("c").unwrap();
        [made, started, ended, begin.elapsed()]
    };
    let names = ["create", "create + start", "... + exit", "... + remove"];
    tell(&names, || round(&bed));

    let cat = crate::bed::config(&["/bin/cat"]);
    let running = bed.create("init", &cat).unwrap();
    bed.engine.start("init").unwrap();
    let mut number = 0;
    tell(&["exec", "exec + exit"], || {
        number += 1;
        let plan = exec_plan(&format!("e{number}"), &process(&["/bin/true"]));
        let begin = Instant::now();
        let created = bed.engine.exec("init", plan, no_streams()).unwrap();
        let runs = begin.elapsed();
        wait(&created);
        [runs, begin.elapsed()]
    });
    drop(running);
    bed.engine.remove("init").unwrap();
    // A shell counts its own, since the bed's reaper would take each child away.
    let line = "i=0; while [ $i -lt 50 ]; do /mnt/rootfs/bin/true; i=$((i+1)); done";
    let begin = Instant::now();
    let mut child = Command::new(crate::bed::BUSYBOX)
        .args(["sh", "-c", line])
        .spawn()
        .unwrap();
    // Whoever reaps it, this comes back when it has ended.
    let _ = child.wait();
    println!(
        "measure: fork + exec + exit of true, mean: {:.2} ms",
        millis(begin.elapsed()) / 50.0
    );
}

/// Medians of each column.
fn tell<const N: usize>(names: &[&str; N], mut round: impl FnMut() -> [Duration; N]) {
    // The first rounds translate code and fill caches.
    for _ in 0..5 {
        round();
    }
    let rounds: Vec<[Duration; N]> = (0..ROUNDS).map(|_| round()).collect();
    for (column, name) in names.iter().enumerate() {
        let mut times: Vec<Duration> = rounds.iter().map(|round| round[column]).collect();
        times.sort_unstable();
        println!(
            "measure: {name}: median {:.2} ms, least {:.2} ms",
            millis(times[ROUNDS / 2]),
            millis(times[0])
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
