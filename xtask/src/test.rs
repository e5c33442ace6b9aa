//! `cargo xtask test`: everything that must hold, in order of price, every step run even when one before it failed.

use crate::{
    bench, command, conformance, counts::Counts, dependencies, e2e, setup, sim, tidy,
    workspace::Workspace,
};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

#[derive(Args)]
pub struct Arguments {
    /// Leave out what needs a guest
    #[arg(long)]
    no_e2e: bool,
}

/// A target folder has 4.4 GiB in the end, without what an incremental build keeps; there is room for the tests' own files
/// besides.
const SPACE_NEEDED: u64 = 6 << 30;

type Step = fn(&Workspace) -> Result<Counts>;

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(setup::ALL)?;
    warn_of_space(workspace)?;
    dependencies::lend(workspace);
    let mut steps: Vec<(&str, Step)> = vec![
        ("format", format),
        ("clippy", clippy),
        ("tidy", |workspace| tidy::run(workspace).map(Counts::one)),
        ("tests", tests),
        ("sim", sim::all),
    ];
    if !arguments.no_e2e {
        steps.push(("guest tests", e2e::guest_tests));
        steps.push(("e2e", e2e::all));
        steps.push(("conformance", conformance::quick));
        steps.push(("bench", bench::works));
    }

    let mut sum = Counts::default();
    let mut failed = Vec::new();
    for (name, step) in steps {
        let counts = perform(name, step, workspace);
        if counts.failed > 0 {
            failed.push(name);
        }
        sum += counts;
    }
    // A step that failed may not have built what it needs.
    if sum.failed == 0
        && !arguments.no_e2e
        && let Err(error) = dependencies::keep(workspace)
    {
        // It costs the next checkout time, and says nothing about this one.
        eprintln!("the dependencies are not kept: {error:#}");
    }
    if !failed.is_empty() {
        println!("== failed: {}", failed.join(", "));
    }
    // Once more, where whoever reads the end of a long log finds it.
    for failure in &sum.failures {
        println!("  {failure}");
    }
    println!("{sum}");
    Ok(ExitCode::from(u8::from(sum.failed > 0)))
}

/// A disk that is full in the middle of it makes anything fail, in any words.
fn warn_of_space(workspace: &Workspace) -> Result<()> {
    let target = workspace.target();
    let about = || format!("ask for the space at {}", target.display());
    fs::create_dir_all(&target).with_context(about)?;
    let disk = rustix::fs::statvfs(&target).with_context(about)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if let Some(warning) = little_space(&target, free) {
        eprintln!("{warning}");
    }
    Ok(())
}

fn little_space(target: &Path, free: u64) -> Option<String> {
    let mib = |bytes: u64| bytes >> 20;
    (free < SPACE_NEEDED).then(|| {
        format!(
            "{} has {} MiB left, and a first run takes up to {}",
            target.display(),
            mib(free),
            mib(SPACE_NEEDED)
        )
    })
}

/// A step that cannot even be run has failed.
fn perform(name: &str, step: Step, workspace: &Workspace) -> Counts {
    eprintln!("== {name}");
    let started = Instant::now();
    let counts = step(workspace).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Counts::failure(format!("{name}: {error:#}"))
    });
    eprintln!("== {name}: {counts} ({} s)", started.elapsed().as_secs());
    counts
}

fn format(workspace: &Workspace) -> Result<Counts> {
    succeeds(workspace.cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<Counts> {
    succeeds(
        workspace
            .cargo()
            .args(["clippy", "--workspace", "--all-targets", "--all-features"])
            .args(["--locked", "--", "-D", "warnings"]),
    )
}

/// All features, since some suites and the agent's seccomp are behind one.
fn tests(workspace: &Workspace) -> Result<Counts> {
    cargo_tests(
        workspace
            .cargo()
            .args(["test", "--workspace", "--all-features"])
            .args(["--locked", "--no-fail-fast"]),
    )
}

fn succeeds(command: &mut Command) -> Result<Counts> {
    command::run(command).map(|()| Counts::PASSED)
}

/// Runs tests, shows what they print, and counts.
pub fn cargo_tests(cargo: &mut Command) -> Result<Counts> {
    counted(cargo, &mut io::stdout())
}

fn counted(cargo: &mut Command, shown: &mut impl Write) -> Result<Counts> {
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", command::line(cargo)))?;
    let output = child.stdout.take().expect("stdout was asked for");
    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        if let Err(error) = writeln!(shown, "{line}") {
            // Nobody reads what else it prints.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error).context("show what the tests print");
        }
        counts += Counts::of_line(&line).unwrap_or_default();
        let failure = Counts::failed_test(&line).map(str::to_owned);
        counts.failures.extend(failure);
    }
    let status = child.wait().context("wait for the tests")?;
    // Tests that did not compile, or that died, print no result.
    if !status.success() && counts.failed == 0 {
        counts += Counts::FAILED;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn results_of_all_test_programs_are_summed() {
        let mut command = shell(
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; echo 'test b ... FAILED'; echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored'; exit 101",
        );

        let counts = counted(&mut command, &mut io::sink()).unwrap();

        assert_eq!(
            counts,
            Counts {
                passed: 5,
                failed: 1,
                failures: vec!["b".to_owned()]
            }
        );
    }

    #[test]
    fn tests_that_died_without_a_result_count_as_a_failure() {
        let counted = |script| counted(&mut shell(script), &mut io::sink()).unwrap();
        assert_eq!(counted("exit 101"), Counts::FAILED);
        assert_eq!(counted("exit 0"), Counts::default());
    }

    #[test]
    fn what_cannot_be_shown_any_more_is_said_so() {
        let mut full: &mut [u8] = &mut [0; 4];

        let error = counted(&mut shell("echo 'more than that'"), &mut full).unwrap_err();

        let text = format!("{error:#}");
        assert!(text.starts_with("show what the tests print: "), "{text}");
    }

    #[test]
    fn little_space_is_warned_of_with_what_is_left_and_needed() {
        let target = Path::new("/src/target");

        assert_eq!(
            little_space(target, SPACE_NEEDED - 1).as_deref(),
            Some("/src/target has 6143 MiB left, and a first run takes up to 6144")
        );
        assert_eq!(little_space(target, SPACE_NEEDED), None);
    }

    #[test]
    fn a_step_that_cannot_run_has_failed() {
        let counts = perform("broken", |_| anyhow::bail!("no"), &Workspace::find());

        assert_eq!(counts, Counts::failure("broken: no".to_owned()));
    }
}
