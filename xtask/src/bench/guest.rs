//! The agent's container engine in a guest of its own, beside the least that a process costs there.
//!
//! The program is hutch-agent's own test of its engine, as the first process of a guest (see
//! docs/adr/0005-in-guest-container-engine.md): no daemon, no stream, no system call filter.

use super::{
    bare::Machine,
    report::{Measure, Unit},
    scene::Scene,
};
use crate::{build, bundle, image};
use anyhow::{Context, Result, bail};
use std::path::Path;

const CREATE_GOAL: f64 = 6.0;
const EXEC_GOAL: f64 = 2.5;
/// The last line of the guest.
const PASSED: &str = "guest: passed";
const FAILED: &str = "guest: FAILED";

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    let engine = build::engine(scene.workspace)?;
    let image = image::for_test(&engine, &[Path::new(bundle::BUSYBOX)])?;
    scene.reside("yardstick")?;
    let machine = Machine::of_only(scene.world)?;
    scene.timed(&["delete", "--force", "yardstick"])?;
    let console = machine.run(&image, "measure", |text| {
        (text.contains(PASSED) || text.contains(FAILED)).then(|| text.to_owned())
    })?;
    measures(&console)
}

fn measures(console: &str) -> Result<Vec<Measure>> {
    let of = |name: &str| samples(console, name);
    let ms = |name: &str, about| -> Result<Measure> {
        let samples = of(name)?;
        Ok(Measure::new(
            &format!("guest/{name}"),
            Unit::Milliseconds,
            samples,
            about,
        ))
    };
    let floor = of("process")?;
    let ratio = |name: &str, goal: f64| -> Result<Measure> {
        let measured = of(name)?;
        Ok(Measure::ratios(&format!("guest/{name} ratio"), &measured, &floor).at_most(goal))
    };
    Ok(vec![
        ms("process", "fork + exec + exit of busybox true")?,
        ms("create", "a container, up to its exec")?,
        ms("create+start", "and the exec")?,
        ms("create+start+exit", "of /bin/true")?,
        ms("create+start+exit+remove", "and nothing is left")?,
        ms("exec", "a process in it, to its running program")?,
        ms("exec+exit", "of /bin/true")?,
        ratio("create+start", CREATE_GOAL)?,
        ratio("exec+exit", EXEC_GOAL)?,
    ])
}

/// Milliseconds, from a line of microseconds.
fn samples(console: &str, name: &str) -> Result<Vec<f64>> {
    let line = console.lines().find_map(|line| {
        let (word, rest) = line.strip_prefix("measure ")?.split_once(' ')?;
        (word == name).then_some(rest)
    });
    let Some(line) = line else {
        bail!("the guest did not measure {name}; console: {console}");
    };
    let number = |word: &str| word.parse::<f64>().map(|micros| micros / 1000.0);
    let numbers = line.split_whitespace().map(number);
    numbers
        .collect::<Result<_, _>>()
        .with_context(|| format!("read {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_from_what_the_guest_says() {
        let names = ["process", "create", "create+start", "create+start+exit"];
        let more = ["create+start+exit+remove", "exec", "exec+exit"];
        let mut console = String::from("booting\r\n");
        for (place, name) in (1..).zip(names.iter().chain(&more)) {
            console += &format!("measure {name} {} {}\r\n", place * 1000, place * 3000);
        }

        let measures = measures(&console).unwrap();

        assert_eq!(measures[0].value, 2.0);
        let ratio = measures
            .iter()
            .find(|m| m.name == "guest/create+start ratio");
        assert_eq!(ratio.unwrap().value, 3.0);
        let ratio = measures.iter().find(|m| m.name == "guest/exec+exit ratio");
        assert!(!ratio.unwrap().goal.unwrap().met);
        assert!(samples("guest: FAILED", "exec").is_err());
    }
}
