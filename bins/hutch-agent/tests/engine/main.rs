//! The engine against a real kernel: every case in namespaces of its own.
//!
//! The engine has to be launched while its process has one thread, which the usual harness cannot
//! give. So this is a harness of its own: each case is this program again, as the first process of
//! a new pid namespace, with a root file system made of busybox. The same program, linked
//! statically, is the first process of a guest too (see `guest`), where cgroups have controllers.

#![allow(
    clippy::unwrap_used,
    reason = "a test, though one that the compiler does not know as such"
)]

mod bed;
mod calls;
mod cases;
mod clocks;
mod guest;
mod measure;

use std::{
    env,
    os::unix::process::CommandExt,
    panic,
    path::Path,
    process::{Command, ExitCode},
};

/// A case: a sentence and what makes it true.
pub type Case = (&'static str, fn());

const CASE: &str = "HUTCH_ENGINE_CASE";
const STAGE: &str = "HUTCH_ENGINE_STAGE";

fn main() -> ExitCode {
    if env::var_os(clocks::ASKED).is_some() {
        return clocks::print();
    }
    if env::var_os(calls::ASKED).is_some() {
        return calls::print();
    }
    if let Ok(name) = env::var(CASE) {
        return match env::var(STAGE).as_deref() {
            Ok("inner") => run_inside(&name),
            _ => bed::enter_namespaces(&name),
        };
    }
    if std::process::id() == 1 {
        return guest::first_process();
    }
    run_all(&cases::ALL)
}

/// Runs the cases whose names hold one of the words on the command line, or all.
pub fn run_all(groups: &[&[Case]]) -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        groups
            .iter()
            .copied()
            .flatten()
            .for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(why) = cannot_run() {
        println!("test engine ... IGNORED, nothing was tested: {why}");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, _) in groups.iter().copied().flatten() {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        if run_apart(name) {
            passed += 1;
            println!("test {name} ... ok");
        } else {
            failed.push(*name);
            println!("test {name} ... FAILED");
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    let (verdict, code) = match failed.is_empty() {
        true => ("ok", ExitCode::SUCCESS),
        false => ("FAILED", ExitCode::FAILURE),
    };
    // The words of the usual harness, for whoever counts.
    let failed = failed.len();
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    code
}

fn cannot_run() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can make containers");
    }
    if !Path::new(bed::BUSYBOX).exists() {
        return Some("busybox is not there (Debian's package busybox-static)");
    }
    None
}

pub fn run_apart(name: &str) -> bool {
    let mut case = Command::new("/proc/self/exe");
    case.arg0("engine-case").env(CASE, name);
    if std::process::id() == 1 {
        case.env(guest::TOLD, "yes");
    }
    case.status().is_ok_and(|status| status.success())
}

fn run_inside(name: &str) -> ExitCode {
    if name == measure::NAME {
        measure::run();
        return ExitCode::SUCCESS;
    }
    let case = cases::ALL
        .iter()
        .copied()
        .flatten()
        .find(|(known, _)| *known == name);
    let Some((_, case)) = case else {
        eprintln!("no case {name:?}");
        return ExitCode::FAILURE;
    };
    match panic::catch_unwind(case) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
