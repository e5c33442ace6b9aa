//! `cargo xtask conformance`: each case is played with Debian's runc and with Hutch on the same bundle, and what both show
//! is compared: exit codes, output, what errors mean, JSON, and side effects.
//!
//! Cases are text, in `cases/`. What differs and is meant, or is not mended yet, is in docs/conformance.md with its reason;
//! any other difference is a failure, and so is a row there that nothing needs any more.

pub mod case;
mod console;
mod differences;
mod facts;
mod meaning;
mod parts;
mod place;
mod play;
mod verdict;

use crate::{assets, counts::Counts, e2e, workspace::Workspace};
use anyhow::{Result, bail};
use case::Case;
use clap::Args;
use std::process::ExitCode;

const TEXTS: &[&str] = &[
    include_str!("cases/words.txt"),
    include_str!("cases/states.txt"),
    include_str!("cases/process.txt"),
    include_str!("cases/rootfs.txt"),
    include_str!("cases/exec.txt"),
    include_str!("cases/signals.txt"),
    include_str!("cases/look.txt"),
    include_str!("cases/resources.txt"),
    include_str!("cases/input.txt"),
];

#[derive(Args, Default)]
pub struct Arguments {
    /// Only cases whose name contains this
    #[arg(value_name = "FILTER", default_value = "")]
    filter: String,
    /// All cases
    #[arg(long)]
    all: bool,
    /// Print the names of the cases, and play none
    #[arg(long)]
    list: bool,
    /// Play this part here, for whoever plays the parts side by side
    #[arg(long, hide = true, requires = "cgroup")]
    part: Option<usize>,
    /// The cgroup to live in, below our own
    #[arg(long, hide = true)]
    cgroup: Option<String>,
}

impl Arguments {
    fn chosen(&self) -> Result<Vec<Case>> {
        let mut cases = all()?;
        cases.retain(|case| match (self.all, self.filter.as_str()) {
            (false, "") => case.is_quick,
            (_, filter) => case.name.contains(filter),
        });
        if cases.is_empty() {
            bail!("no case's name contains {:?}", self.filter);
        }
        Ok(cases)
    }

    /// Every row of the table must be needed.
    fn is_everything(&self) -> bool {
        self.all && self.filter.is_empty()
    }
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let cases = arguments.chosen()?;
    if arguments.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(part), Some(cgroup)) = (arguments.part, &arguments.cgroup) {
        return parts::play_here(workspace, &cases, part, cgroup);
    }
    let counts = side_by_side(workspace, arguments)?;
    println!("{counts}");
    Ok(ExitCode::from(u8::from(counts.failed > 0)))
}

/// The quick ones, for whoever tests everything.
pub fn quick(workspace: &Workspace) -> Result<Counts> {
    side_by_side(workspace, &Arguments::default())
}

fn side_by_side(workspace: &Workspace, arguments: &Arguments) -> Result<Counts> {
    assets::ensure(workspace)?;
    let _alone = e2e::above_all(parts::clear_interrupted)?;
    parts::play(arguments)
}

fn all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for text in TEXTS {
        cases.extend(case::parse(text)?);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_as_many_cases_as_were_promised_and_each_has_a_name_of_its_own() {
        let cases = all().unwrap();

        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 250, "{} cases", cases.len());
        let quick = cases.iter().filter(|case| case.is_quick).count();
        assert!((70..=100).contains(&quick), "{quick} are quick");
    }
}
