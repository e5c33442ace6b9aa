//! The cases in parts, side by side: each part in a process with namespaces, cgroups and a world of its own.

use super::{
    Arguments,
    case::Case,
    differences::{self, Row},
    play::{Player, Runtime},
    verdict::{self, Verdict},
};
use crate::{
    counts::Counts,
    e2e::{self, cgroups::Subtree},
    workspace::Workspace,
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Instant,
};

/// A guest keeps one processor busy; more would make all of them slow.
const PARTS: usize = 2;
/// What a part says at its end, for whoever adds up: `part: PASSED FAILED ROW,ROW,…`.
const SUM: &str = "part: ";
const FAILED: &str = " ... FAILED";
const KNOWN: &str = " ... known";

fn subtree_name(part: usize) -> String {
    format!("hutch-conformance-{}-{part}", std::process::id())
}

/// What stays of parts that were interrupted.
pub fn clear_interrupted() -> Result<()> {
    (0..PARTS).try_for_each(|part| Subtree::found(&subtree_name(part))?.clear())
}

#[derive(Default)]
struct Sum {
    counts: Counts,
    known: usize,
    used: BTreeSet<usize>,
}

pub fn play(arguments: &Arguments) -> Result<Counts> {
    let sums = thread::scope(|scope| {
        let parts = 0..PARTS.min(arguments.chosen()?.len());
        let parts: Vec<_> = parts
            .map(|part| scope.spawn(move || start(arguments, part)))
            .collect();
        let parts = parts.into_iter();
        Ok::<_, anyhow::Error>(
            parts
                .map(|part| part.join().expect("a part only starts and reads"))
                .collect::<Vec<_>>(),
        )
    })?;
    let mut all = Sum::default();
    for (part, sum) in sums.into_iter().enumerate() {
        let sum = sum.unwrap_or_else(|why| Sum {
            counts: Counts::failure(format!("part {part}: {why:#}")),
            ..Sum::default()
        });
        all.counts += sum.counts;
        all.known += sum.known;
        all.used.extend(sum.used);
    }
    if arguments.is_everything() {
        all.counts += needless(&differences::table()?, &all.used);
    }
    for failure in &all.counts.failures {
        println!("failed: {failure}");
    }
    println!("known differences show up in {} cases", all.known);
    Ok(all.counts)
}

/// A row that nothing needs hides the next difference.
fn needless(table: &[Row], used: &BTreeSet<usize>) -> Counts {
    let rows = table
        .iter()
        .enumerate()
        .filter(|(number, row)| row.is_steady() && !used.contains(number));
    rows.map(|(_, row)| {
        Counts::failure(format!(
            "docs/conformance.md: nothing needs {}",
            row.title()
        ))
    })
    .fold(Counts::default(), |sum, counts| sum + counts)
}

fn start(arguments: &Arguments, part: usize) -> Result<Sum> {
    let subtree = Subtree::make(&subtree_name(part))?;
    let mut command = Command::new(std::env::current_exe().context("find xtask")?);
    command
        .args(["conformance", "--part", &part.to_string()])
        .args(["--cgroup", subtree.name()]);
    if arguments.all {
        command.arg("--all");
    }
    if !arguments.filter.is_empty() {
        command.arg(&arguments.filter);
    }
    let heard = hear(&mut command);
    // Whatever it did not end itself ends with it.
    subtree.clear()?;
    heard
}

fn hear(command: &mut Command) -> Result<Sum> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a part")?;
    let stdout = child.stdout.take().context("stdout was asked for")?;
    let mut sum = Sum::default();
    let mut is_over = false;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("hear a part")?;
        if let Some(figures) = line.strip_prefix(SUM) {
            is_over = true;
            add(&mut sum, figures).with_context(|| format!("a part said {line:?}"))?;
            continue;
        }
        if let Some(name) = line.split(FAILED).next().filter(|name| *name != line) {
            sum.counts.failures.push(name.to_owned());
        }
        sum.known += usize::from(line.contains(KNOWN));
        println!("{line}");
    }
    let status = child.wait().context("wait for a part")?;
    ensure!(is_over && status.success(), "it ended with {status}");
    Ok(sum)
}

fn add(sum: &mut Sum, figures: &str) -> Result<()> {
    let mut words = figures.split(' ');
    let mut next = || words.next().unwrap_or_default();
    sum.counts.passed = next().parse()?;
    sum.counts.failed = next().parse()?;
    let rows = next().split(',').filter(|row| !row.is_empty());
    sum.used = rows.map(str::parse).collect::<Result<_, _>>()?;
    Ok(())
}

/// In the process of its own.
pub fn play_here(
    workspace: &Workspace,
    cases: &[Case],
    part: usize,
    cgroup: &str,
) -> Result<ExitCode> {
    let table = differences::table()?;
    let ours = cases.iter().skip(part).step_by(PARTS);
    let mut counts = Counts::default();
    let mut used = BTreeSet::new();
    let name = format!("conformance-{part}");
    e2e::tell_apart(workspace, cgroup, &name, |world| {
        let player = Player::new(world)?;
        for case in ours {
            let began = Instant::now();
            let verdict = play_case(&player, case, &table);
            counts += told(case, &verdict, began);
            used.extend(verdict.used);
        }
        player.clear_bed()?;
        let left = fs::read_dir(player.runc_root());
        let left = left.map_or(0, Iterator::count);
        ensure!(left == 0, "runc has {left} containers left");
        Ok(())
    })?;
    let rows: Vec<String> = used.iter().map(usize::to_string).collect();
    println!(
        "{SUM}{} {} {}",
        counts.passed,
        counts.failed,
        rows.join(",")
    );
    Ok(ExitCode::SUCCESS)
}

fn play_case(player: &Player<'_>, case: &Case, table: &[Row]) -> Verdict {
    let both = || {
        if !case.is_alone {
            player.make_bed()?;
        }
        let runc = player.play(Runtime::Runc, case).context("runc")?;
        let hutch = player.play(Runtime::Hutch, case).context("hutch")?;
        Ok::<_, anyhow::Error>((runc, hutch))
    };
    match both() {
        Ok((runc, hutch)) => verdict::of(case, &runc, &hutch, table),
        Err(why) => Verdict {
            failures: vec![format!("  {why:#}")],
            ..Verdict::default()
        },
    }
}

fn told(case: &Case, verdict: &Verdict, began: Instant) -> Counts {
    let (name, seconds) = (&case.name, began.elapsed().as_secs_f32());
    if !verdict.failures.is_empty() {
        println!(
            "case {name}{FAILED} ({seconds:.1} s)\n{}",
            verdict.failures.join("\n")
        );
        return Counts {
            failures: Vec::new(),
            ..Counts::FAILED
        };
    }
    match verdict.known.is_empty() {
        true => println!("case {name} ... ok ({seconds:.1} s)"),
        false => println!(
            "case {name}{KNOWN} ({}) ({seconds:.1} s)",
            verdict.known.join("; ")
        ),
    }
    // One that differs as it is known to is neither.
    match verdict.known.is_empty() {
        true => Counts::PASSED,
        false => Counts::default(),
    }
}
