//! The simulation: the production wiring over joined fakes under virtual time, stories and faults
//! chosen by a seed, checkers after every effect. `cargo xtask sim` runs it with many seeds.
//!
//! - `HUTCH_SIM_SEEDS`: how many seeds, from 1.
//! - `HUTCH_SIM_SEED`: this one alone.
//! - `HUTCH_SIM_TRACE`: print the log, with what the rooms trace.

#![allow(clippy::unwrap_used)] // Tests may.

mod run;
mod stories;
mod weather;
mod world;

use run::{Detail, Interrupted, Verdict, told, told_interrupted};
use std::{
    env, fs,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};
use world::fate::Trouble;

/// What `cargo test` runs by itself.
const SEEDS: u64 = 100;
/// How many failed seeds are shown.
const SHOWN_MAX: usize = 10;

/// What is traced is decided for all threads at once, and one that traces may miss what another
/// thread meets for the first time at that moment; so these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|why| panic!("{name}={text}: {why}")),
    )
}

fn written(name: &str, log: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sim");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.log"));
    fs::write(&path, log).unwrap();
    path
}

/// Tells a failed seed again, in detail, into a file.
fn evidence(seed: u64) -> PathBuf {
    written(&format!("seed-{seed}"), &told(seed, Detail::Traced).log)
}

/// As many at a time as there are processors.
fn side_by_side<T: Send>(work: impl Fn() -> Vec<T> + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}

fn all(seeds: u64) -> Vec<(u64, Verdict)> {
    let next = AtomicU64::new(1);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return failed;
            }
            let verdict = told(seed, Detail::Events);
            if !verdict.violations.is_empty() {
                failed.push((seed, verdict));
            }
        }
    };
    let mut failed = side_by_side(work);
    failed.sort_by_key(|(seed, _)| *seed);
    failed
}

fn alone(seed: u64) {
    let detail = match env::var_os("HUTCH_SIM_TRACE") {
        Some(_) => Detail::Traced,
        None => Detail::Events,
    };
    let verdict = told(seed, detail);
    if detail == Detail::Traced {
        println!("{}", verdict.log);
    }
    let path = evidence(seed);
    println!("seed {seed}: event log: {}", path.display());
    assert!(
        verdict.violations.is_empty(),
        "seed {seed}: {:#?}",
        verdict.violations
    );
}

#[test]
fn no_seed_breaks_a_promise() {
    let _turn = turn();
    if let Some(seed) = number("HUTCH_SIM_SEED") {
        return alone(seed);
    }
    let (seeds, begun) = (number("HUTCH_SIM_SEEDS").unwrap_or(SEEDS), Instant::now());

    let failed = all(seeds);

    println!(
        "{seeds} seeds, {} failed, {:.1} s",
        failed.len(),
        begun.elapsed().as_secs_f64()
    );
    for (seed, verdict) in failed.iter().take(SHOWN_MAX) {
        println!(
            "seed {seed} failed; event log: {}",
            evidence(*seed).display()
        );
        for violation in &verdict.violations {
            println!("  {violation}");
        }
    }
    let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "failed seeds: {seeds:?}");
}

/// One of so many lets a story begin.
const DICE_MAX: u64 = 50;

/// A story is told as often as it has calls, and twice; where few seeds are told, every so many calls are left out. Until
/// it is interrupted each telling is the one whose calls were counted.
fn interruptions(stride: u64) -> Vec<Interrupted> {
    let mut all = Vec::new();
    for story in stories::interrupted() {
        let told = |dice, trouble, at| Interrupted {
            story,
            dice,
            trouble,
            at,
        };
        // A moment may be so short that a deletion comes before its creation.
        let counted =
            |dice| told_interrupted(told(dice, Trouble::KillBefore, u64::MAX), Detail::Events).1;
        let begun = (1..=DICE_MAX)
            .find_map(|dice| Some((dice, counted(dice))).filter(|(_, calls)| *calls > 20));
        let (dice, calls) = begun.unwrap_or_else(|| panic!("{story:?}: nothing happened"));
        for at in (1..=calls).step_by(usize::try_from(stride).unwrap()) {
            let troubles = [Trouble::KillBefore, Trouble::KillAfter];
            all.extend(troubles.map(|trouble| told(dice, trouble, at)));
        }
    }
    all
}

#[test]
fn no_seed_breaks_a_promise_of_a_sandbox_whose_daemon_is_killed_at_any_effect() {
    let _turn = turn();
    if number("HUTCH_SIM_SEED").is_some() {
        return;
    }
    let (seeds, begun) = (number("HUTCH_SIM_SEEDS").unwrap_or(SEEDS), Instant::now());
    let all = interruptions((1_000 / seeds.clamp(1, 1_000)).max(1));

    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (verdict, _) = told_interrupted(*one, Detail::Events);
            if !verdict.violations.is_empty() {
                failed.push((*one, verdict.violations));
            }
        }
        failed
    };
    let failed = side_by_side(work);

    println!(
        "{} interruptions, {} failed, {:.1} s",
        all.len(),
        failed.len(),
        begun.elapsed().as_secs_f64()
    );
    for (one, violations) in failed.iter().take(SHOWN_MAX) {
        println!("{one:?} failed: {violations:#?}");
    }
    if let Some((one, _)) = failed.first() {
        let (verdict, _) = told_interrupted(*one, Detail::Traced);
        let path = written("interrupted", &verdict.log);
        panic!(
            "{} failed; event log of the first: {}",
            failed.len(),
            path.display()
        );
    }
}

#[test]
fn a_seed_told_twice_writes_the_same_log() {
    let _turn = turn();
    for seed in 1..=10 {
        for detail in [Detail::Events, Detail::Traced] {
            let (first, second) = (told(seed, detail), told(seed, detail));

            assert!(first.log.len() > 1_000, "seed {seed}: nothing happened");
            assert!(first.log == second.log, "seed {seed} was told differently");
        }
    }
}
