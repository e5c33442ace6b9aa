//! What a container and an exec cost, beside the least that any process costs. Asked for by the
//! word `measure` on a guest's kernel command line, as `cargo xtask bench guest` does.
//!
//! Each round does all three, so that what disturbs one disturbs the others too. What is said is
//! one line a figure: `measure NAME MICROSECONDS MICROSECONDS …`, a number to a round.

use crate::bed::{BUSYBOX, Bed, ROOTFS, config, exec_plan, no_streams, process, wait};
use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

pub const NAME: &str = "measure";
const ROUNDS: usize = 50;
/// They translate code and fill caches.
const ROUNDS_BEFORE: usize = 5;
/// So many between two words to the shell make its own part small.
const PROCESSES: u32 = 5;

pub fn run_apart() -> ExitCode {
    if crate::run_apart(NAME) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

pub fn run() {
    let bed = Bed::make();
    let running = bed.create("init", &config(&["/bin/cat"])).unwrap();
    bed.start("init").unwrap();
    let mut floor = Floor::start();
    let mut names = Vec::new();
    let mut rounds = Vec::new();
    for number in 0..ROUNDS_BEFORE + ROUNDS {
        let mut round = vec![("process", floor.process())];
        round.extend(container(&bed));
        round.extend(exec(&bed, number));
        (names, _) = round.iter().copied().unzip::<_, Duration, Vec<_>, Vec<_>>();
        rounds.push(round);
    }
    drop((floor, running));
    bed.engine.remove("init").unwrap();
    for (column, name) in names.iter().enumerate() {
        let rounds = rounds[ROUNDS_BEFORE..].iter();
        let times: Vec<String> = rounds
            .map(|round| round[column].1.as_micros().to_string())
            .collect();
        println!("measure {name} {}", times.join(" "));
    }
}

/// Each counted from the beginning.
fn container(bed: &Bed) -> [(&'static str, Duration); 4] {
    let plan = bed.plan("c", &config(&["/bin/true"]));
    let begin = Instant::now();
    let created = bed.engine.create(plan, no_streams()).unwrap();
    let made = begin.elapsed();
    bed.start("c").unwrap();
    let started = begin.elapsed();
    wait(&created);
    let ended = begin.elapsed();
    bed.engine.remove("c").unwrap();
    [
        ("create", made),
        ("create+start", started),
        ("create+start+exit", ended),
        ("create+start+exit+remove", begin.elapsed()),
    ]
}

fn exec(bed: &Bed, number: usize) -> [(&'static str, Duration); 2] {
    let plan = exec_plan(&format!("e{number}"), &process(&["/bin/true"]));
    let begin = Instant::now();
    let created = bed.exec_with("init", plan, no_streams()).unwrap();
    let runs = begin.elapsed();
    wait(&created);
    [("exec", runs), ("exec+exit", begin.elapsed())]
}

/// Fork, exec and exit of busybox true. A shell does it and waits, since the bed's reaper would
/// take a child of ours away.
struct Floor {
    shell: Child,
    words: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Floor {
    fn start() -> Self {
        let trues = format!("{ROOTFS}/bin/true; ").repeat(PROCESSES as usize);
        let mut shell = Command::new(BUSYBOX)
            .args([
                "sh",
                "-c",
                &format!("while read word; do {trues} echo; done"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            words: shell.stdin.take().unwrap(),
            answers: BufReader::new(shell.stdout.take().unwrap()).lines(),
            shell,
        }
    }

    fn process(&mut self) -> Duration {
        let begin = Instant::now();
        self.words.write_all(b"\n").unwrap();
        self.answers.next().unwrap().unwrap();
        begin.elapsed() / PROCESSES
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Both fail if the bed's reaper was faster.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
