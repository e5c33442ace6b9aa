//! Where the time of one start goes: the daemon's own steps, what the guest said of itself, and what lies between them.

use super::{
    console::Ready,
    report::{Measure, Unit},
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// Steps of the daemon from the wish to the running VMM, as `hutch sandbox inspect` names them.
const BEFORE_BOOT: [&str; 6] = ["record", "rooms", "premises", "plumbing", "attach", "vmm"];
/// Those that follow the guest's first answer.
const AFTER_BOOT: [&str; 4] = [
    "guest setup",
    "container create",
    "relay",
    "container start",
];

/// The waterfall, in the order in which it happens.
const STEPS: [(&str, &str); 18] = [
    (
        "admission",
        "hutch's own start, its request, the daemon's answer to whether it may be",
    ),
    ("record", "the sandbox is on record"),
    ("rooms", "its actors are opened"),
    ("premises", "folder and cgroups"),
    (
        "plumbing",
        "network namespace and share (virtiofsd), side by side",
    ),
    ("attach", "the container's directories enter the share"),
    ("vmm", "fork and exec of QEMU, with its record"),
    (
        "kernel entry",
        "QEMU's own start and the firmware, until the kernel's clock runs",
    ),
    ("init entry", "the guest's kernel"),
    ("agent ready", "the agent, until it serves"),
    ("link", "from there to the daemon's first answer from it"),
    ("guest setup", "share mounted, hostname, clock, random pool"),
    (
        "container create",
        "up to the exec, with its stream and records",
    ),
    ("relay", "hutch attaches itself as the relay"),
    ("container start", "the exec"),
    (
        "first output",
        "until its first byte is on hutch's standard output",
    ),
    ("exit", "until hutch ended with the code"),
    (
        "teardown",
        "`hutch delete`: VM ended, everything released, records gone",
    ),
];

/// What was seen of a start from outside; durations since `hutch` was started.
pub struct Seen {
    pub sent_epoch_ms: u64,
    pub ready: Duration,
    pub line: Ready,
    pub output: Duration,
    pub ended: Duration,
    pub teardown: Duration,
}

/// What each step took, by its name.
pub type Steps = BTreeMap<&'static str, Duration>;

/// # Errors
/// The daemon does not tell of a step.
pub fn steps(seen: &Seen, inspected: &Inspected) -> Result<Steps> {
    let mut steps = Steps::new();
    let admission = inspected.created_ms.saturating_sub(seen.sent_epoch_ms);
    steps.insert("admission", Duration::from_millis(admission));
    for name in BEFORE_BOOT {
        steps.insert(name, inspected.step(name)?);
    }
    let launched: Duration = steps.values().sum();
    let init = Duration::from_millis(seen.line.init_ms);
    let serving = Duration::from_millis(seen.line.ready_ms);
    let booting = seen.ready.saturating_sub(launched);
    steps.insert("kernel entry", booting.saturating_sub(serving));
    steps.insert("init entry", init);
    steps.insert("agent ready", serving.saturating_sub(init));
    let boot = inspected.step("guest boot")?;
    steps.insert("link", boot.saturating_sub(booting));
    for name in AFTER_BOOT {
        steps.insert(name, inspected.step(name)?);
    }
    let known: Duration = steps.values().sum();
    steps.insert("first output", seen.output.saturating_sub(known));
    steps.insert("exit", seen.ended.saturating_sub(seen.output));
    steps.insert("teardown", seen.teardown);
    Ok(steps)
}

/// In the order in which it happens.
pub fn measures(starts: &[Steps]) -> Vec<Measure> {
    let measure = |(step, about): (&str, &'static str)| {
        let took = starts.iter().filter_map(|steps| steps.get(step));
        let took = took.map(|time| time.as_secs_f64() * 1000.0).collect();
        Measure::new(
            &format!("waterfall/{step}"),
            Unit::Milliseconds,
            took,
            about,
        )
    };
    STEPS.into_iter().map(measure).collect()
}

/// What the daemon says of the sandbox.
pub struct Inspected {
    created_ms: u64,
    phases: BTreeMap<String, Duration>,
}

impl Inspected {
    /// From the JSON of `hutch sandbox inspect`.
    pub fn of(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .with_context(|| format!("hutch sandbox inspect printed {text:?}"))?;
        let phases = value["phases"].as_array().context("no phases")?;
        let phase = |phase: &Value| {
            let name = phase["name"].as_str()?.to_owned();
            Some((name, Duration::from_micros(phase["micros"].as_u64()?)))
        };
        Ok(Self {
            created_ms: value["createdMs"].as_u64().context("no time of creation")?,
            phases: phases.iter().filter_map(phase).collect(),
        })
    }

    fn step(&self, name: &str) -> Result<Duration> {
        let took = self.phases.get(name).copied();
        took.with_context(|| format!("hutchd tells of no step {name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_of_its_steps_is_read() {
        let text = r#"{"createdMs": 1700, "phases": [{"name": "vmm", "micros": 2500}]}"#;

        let inspected = Inspected::of(text).unwrap();

        assert_eq!(inspected.created_ms, 1700);
        assert_eq!(inspected.step("vmm").unwrap(), Duration::from_micros(2500));
        let error = inspected.step("relay").unwrap_err().to_string();
        assert!(error.contains("no step \"relay\""), "{error}");
    }

    #[test]
    fn what_no_clock_of_ours_saw_is_what_lies_between() {
        let phase = |name| format!(r#"{{"name": "{name}", "micros": 1000}}"#);
        let names = BEFORE_BOOT.into_iter().chain(AFTER_BOOT).map(phase);
        let boot = r#"{"name": "guest boot", "micros": 1200000}"#.to_owned();
        let phases: Vec<String> = names.chain([boot]).collect();
        let text = format!(r#"{{"createdMs": 1004, "phases": [{}]}}"#, phases.join(","));
        let seen = Seen {
            sent_epoch_ms: 1000,
            ready: Duration::from_millis(1110),
            line: Ready {
                ready_ms: 1000,
                init_ms: 900,
            },
            output: Duration::from_millis(1300),
            ended: Duration::from_millis(1310),
            teardown: Duration::from_millis(50),
        };

        let steps = steps(&seen, &Inspected::of(&text).unwrap()).unwrap();

        let ms = |name| steps[name].as_millis();
        assert_eq!((ms("admission"), ms("kernel entry")), (4, 100));
        assert_eq!((ms("init entry"), ms("agent ready")), (900, 100));
        assert_eq!((ms("link"), ms("first output")), (100, 86));
        assert_eq!((ms("exit"), ms("teardown")), (10, 50));
        assert_eq!(measures(&[steps]).len(), STEPS.len());
    }
}
