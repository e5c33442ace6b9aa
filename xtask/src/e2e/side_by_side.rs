//! Several stories at once, each in a process of its own with namespaces and cgroups of its own.
//!
//! What a story prints is kept and shown when it is over, so that it stands together.

use super::{
    cgroups::Subtree,
    stories::{self, Story},
    tell_apart,
    world::Running,
};
use crate::{counts::Counts, workspace::Workspace};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::{
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// A guest that boots keeps one processor busy, and most of a story is waiting; more would make boots slow.
const AT_ONCE: usize = 2;

/// Every wait within a story has a limit of its own, and together they are shorter: what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1200);

/// A story as it is asked of a process of its own.
#[derive(Args)]
pub struct Arguments {
    /// Which
    name: String,
    /// The cgroup to live in, below our own
    #[arg(long)]
    cgroup: String,
}

/// Tells stories, in the order given as far as they wait for each other.
pub fn tell(chosen: &[&Story]) -> Counts {
    let waiting = Mutex::new(chosen.iter());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next().copied()
    };
    let worker = |number: usize| {
        let mut sum = Counts::default();
        while let Some(story) = next() {
            let started = Instant::now();
            let verdict = tell_one(story, number);
            let seconds = started.elapsed().as_secs_f32();
            sum += match verdict {
                Ok(()) => {
                    println!("story {} ... ok ({seconds:.1} s)", story.name);
                    Counts::PASSED
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    println!("story {} ... FAILED ({seconds:.1} s)\n  {text}", story.name);
                    let first = text.lines().next().unwrap_or_default();
                    Counts::failure(format!("story {}: {first}", story.name))
                }
            };
        }
        sum
    };
    let worker = &worker;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|number| scope.spawn(move || worker(number)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker only starts and reads"))
            .fold(Counts::default(), |sum, counts| sum + counts)
    })
}

fn subtree_name(worker: usize) -> String {
    format!("hutch-e2e-{}-{worker}", std::process::id())
}

/// What stays of stories that were interrupted.
pub fn clear_interrupted() -> Result<()> {
    (0..AT_ONCE).try_for_each(|worker| Subtree::found(&subtree_name(worker))?.clear())
}

fn tell_one(story: &Story, worker: usize) -> Result<()> {
    let subtree = Subtree::make(&subtree_name(worker))?;
    let mut command = Command::new(std::env::current_exe().context("find xtask")?);
    command
        .args(["e2e-story", "--cgroup", subtree.name()])
        .arg(story.name);
    let outcome = Running::start(&mut command).and_then(|running| running.finish(LIMIT));
    // Whatever it did not end itself ends with it.
    subtree.clear()?;
    let outcome = outcome?;
    eprint!("{}", outcome.stderr);
    ensure!(
        outcome.status.success(),
        "{}",
        match outcome.stdout.trim_end() {
            "" => format!("it said nothing, and ended with {}", outcome.status),
            said => said.to_owned(),
        }
    );
    Ok(())
}

/// In the process of its own: says on standard output what went wrong.
pub fn tell_here(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let story = stories::ALL
        .iter()
        .find(|story| story.name == arguments.name);
    let story = story.with_context(|| format!("no story is called {:?}", arguments.name))?;
    match tell_apart(workspace, &arguments.cgroup, story.name, story.tell) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            println!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}
