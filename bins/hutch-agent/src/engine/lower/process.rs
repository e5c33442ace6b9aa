//! A process of config.json or process.json.

use super::{c_string, env, invalid, names, plain_path};
use crate::engine::{
    error::Result,
    plan::{CapabilitySet, ProcessPlan, SeccompFilter, Stdio},
    spec::Warnings,
    sys::SchedAttr,
};
use oci_spec::runtime::{LinuxCapabilities, LinuxIOPriority, Process, Scheduler, User};
use std::ffi::CString;

/// As in runc. The largest number of 32 bits is no id at all: to the kernel it means to leave an id as it is.
const ID_MAX: u32 = i32::MAX.cast_unsigned();

/// What an exec takes from its container where its own process object is silent.
#[derive(Debug, Clone, Default)]
pub struct ExecDefaults {
    pub capabilities: CapabilitySet,
    pub rlimits: Vec<(u32, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    pub personality: Option<u32>,
    pub keyring: CString,
    pub seccomp: Option<SeccompFilter>,
}

/// # Errors
/// A process that makes no sense.
pub fn lower_process(
    process: &Process,
    terminal: bool,
    defaults: &ExecDefaults,
    warnings: &mut Warnings,
) -> Result<ProcessPlan> {
    let cwd = plain_path(process.cwd(), || "process: cwd".to_owned())?;
    if cwd.is_empty() {
        return invalid("process", "Cwd property must not be empty");
    }
    if !cwd.starts_with('/') {
        return invalid("process", "Cwd must be an absolute path");
    }
    let args = strings(process.args(), "args")?;
    if args.is_empty() {
        return invalid("process", "args must not be empty");
    }
    for variable in process.env().iter().flatten() {
        if variable.find('=').is_none_or(|at| at == 0) {
            return invalid(
                "process",
                format!("invalid environment variable: {variable:?}"),
            );
        }
    }
    warn_of_labels(process, warnings);
    let user = process.user();
    check_ids(user)?;
    Ok(ProcessPlan {
        io: stdio(process, terminal)?,
        args,
        env: strings(&process.env().as_deref().map(env::last_of_each), "env")?,
        cwd,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        rlimits: rlimits(process)?.unwrap_or_else(|| defaults.rlimits.clone()),
        capabilities: process
            .capabilities()
            .as_ref()
            .map_or(defaults.capabilities, |set| capabilities(set, warnings)),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: process.oom_score_adj().or(defaults.oom_score_adj),
        io_priority: process
            .io_priority()
            .as_ref()
            .map(io_priority)
            .transpose()?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        cpu_affinity: cpu_affinity(process)?,
        personality: defaults.personality,
        keyring: defaults.keyring.clone(),
        seccomp: defaults.seccomp.clone(),
        known_home: None,
    })
}

fn strings(list: &Option<Vec<String>>, name: &str) -> Result<Vec<CString>> {
    list.iter()
        .flatten()
        .map(|one| c_string(one, || format!("process: {name}: {one:?}")))
        .collect()
}

fn check_ids(user: &User) -> Result<()> {
    let groups = user.additional_gids().iter().flatten();
    let mut ids = [user.uid(), user.gid()].into_iter().chain(groups.copied());
    match ids.find(|id| *id > ID_MAX) {
        None => Ok(()),
        Some(id) => invalid(
            "process: user",
            format!("{id}: uids and gids must be in range 0-{ID_MAX}"),
        ),
    }
}

fn warn_of_labels(process: &Process, warnings: &mut Warnings) {
    for (name, module, label) in [
        ("apparmorProfile", "AppArmor", process.apparmor_profile()),
        ("selinuxLabel", "SELinux", process.selinux_label()),
    ] {
        if let Some(label) = label
            && !label.is_empty()
        {
            warnings.push(format!(
                "process: {name} {label:?}: the guest's kernel has no {module}, ignored"
            ));
        }
    }
}

fn stdio(process: &Process, terminal: bool) -> Result<Stdio> {
    if process.terminal().unwrap_or(false) != terminal {
        let why = if terminal {
            "its terminal is false, but it was given one"
        } else {
            "its terminal is true, but it was given pipes"
        };
        return invalid("process", why);
    }
    if !terminal {
        return Ok(Stdio::Pipes);
    }
    let side = |length: u64| u16::try_from(length).or_else(|_| invalid("consoleSize", "too large"));
    let (rows, columns) = match process.console_size() {
        Some(size) => (side(size.height())?, side(size.width())?),
        None => (0, 0),
    };
    Ok(Stdio::Terminal { rows, columns })
}

/// None: nothing is said about limits.
fn rlimits(process: &Process) -> Result<Option<Vec<(u32, u64, u64)>>> {
    let Some(limits) = process.rlimits() else {
        return Ok(None);
    };
    for (position, one) in limits.iter().enumerate() {
        if limits[..position]
            .iter()
            .any(|other| other.typ() == one.typ())
        {
            return invalid("process: rlimits", format!("{} is there twice", one.typ()));
        }
    }
    let lower =
        |one: &oci_spec::runtime::PosixRlimit| (names::rlimit(one.typ()), one.soft(), one.hard());
    Ok((!limits.is_empty()).then(|| limits.iter().map(lower).collect()))
}

/// What cannot be granted is told and left out, as the specification has it.
fn capabilities(set: &LinuxCapabilities, warnings: &mut Warnings) -> CapabilitySet {
    let bounding = names::capability_bits(set.bounding().as_ref());
    let permitted = names::capability_bits(set.permitted().as_ref());
    let mut possible = |name: &str, wanted: u64, within: u64, why: &str| {
        if wanted & !within != 0 {
            let names = names::capability_names(wanted & !within);
            warnings.push(format!(
                "process: {name} capabilities {names}: {why}, ignored"
            ));
        }
        wanted & within
    };
    let effective = names::capability_bits(set.effective().as_ref());
    let inheritable = names::capability_bits(set.inheritable().as_ref());
    let ambient = names::capability_bits(set.ambient().as_ref());
    // None of the three can be more, says the kernel.
    let effective = possible("effective", effective, permitted, "not permitted");
    let within = bounding | permitted;
    let inheritable = possible(
        "inheritable",
        inheritable,
        within,
        "not in the bounding set",
    );
    let both = permitted & inheritable;
    let ambient = possible("ambient", ambient, both, "not permitted and inheritable");
    CapabilitySet {
        bounding,
        effective,
        permitted,
        inheritable,
        ambient,
    }
}

fn io_priority(wanted: &LinuxIOPriority) -> Result<u32> {
    match u32::try_from(wanted.priority()) {
        Ok(priority @ 0..=7) => Ok(names::io_priority(wanted.class(), priority)),
        _ => invalid(
            "process: ioPriority",
            format!("{} is not one of 0 to 7", wanted.priority()),
        ),
    }
}

fn scheduler(wanted: &Scheduler) -> Result<SchedAttr> {
    let policy = *wanted.policy();
    let Some(policy_number) = names::scheduler_policy(policy) else {
        return invalid("process: scheduler", format!("{policy}: no such policy"));
    };
    let priority = wanted.priority().unwrap_or(0);
    let Ok(priority) = u32::try_from(priority) else {
        return invalid(
            "process: scheduler",
            format!("priority {priority} is negative"),
        );
    };
    Ok(SchedAttr {
        policy: policy_number,
        flags: wanted
            .flags()
            .iter()
            .flatten()
            .fold(0, |flags, flag| flags | names::scheduler_flag(*flag)),
        nice: wanted.nice().unwrap_or(0),
        priority,
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
        ..SchedAttr::default()
    })
}

/// Where the program shall run in the end; where its set-up runs does not matter here.
fn cpu_affinity(process: &Process) -> Result<Option<Vec<u32>>> {
    let Some(wanted) = process.exec_cpu_affinity() else {
        return Ok(None);
    };
    let list = wanted
        .cpu_affinity_final()
        .as_ref()
        .or(wanted.initial().as_ref());
    list.map(|list| cpus(list)).transpose()
}

/// As the kernel writes lists of cpus: "0-2,5". A list may name the same ones without end.
fn cpus(list: &str) -> Result<Vec<u32>> {
    // As many as one cpu_set_t has.
    const CPUS_MAX: usize = 1024;
    let number = |text: &str| match text.parse::<usize>() {
        Ok(cpu) if cpu < CPUS_MAX => Ok(cpu),
        _ => invalid("process: execCPUAffinity", format!("{text:?} is no cpu")),
    };
    let mut named = [false; CPUS_MAX];
    for range in list.split(',') {
        match range.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                // One that ends before it begins names none, and the kernel refuses an empty set.
                named
                    .iter_mut()
                    .take(last + 1)
                    .skip(first)
                    .for_each(|one| *one = true);
            }
            None => named[number(range)?] = true,
        }
    }
    let cpus = (0..).zip(named).filter(|(_, named)| *named);
    Ok(cpus.map(|(cpu, _)| cpu).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(json: &str) -> (Result<ProcessPlan>, Warnings) {
        let process: Process = serde_json::from_str(json).unwrap();
        let mut warnings = Warnings::new();
        let plan = lower_process(&process, false, &ExecDefaults::default(), &mut warnings);
        (plan, warnings)
    }

    #[test]
    fn a_process_that_makes_no_sense_is_refused_in_known_words() {
        for (json, why) in [
            (
                r#"{"user":{},"cwd":"","args":["a"]}"#,
                "Cwd property must not be empty",
            ),
            (
                r#"{"user":{},"cwd":"tmp","args":["a"]}"#,
                "Cwd must be an absolute path",
            ),
            (r#"{"user":{},"cwd":"/"}"#, "args must not be empty"),
            (
                r#"{"user":{},"cwd":"/","args":["a"],"env":["A=","B"]}"#,
                r#"invalid environment variable: "B""#,
            ),
            (
                r#"{"user":{},"cwd":"/","args":["a"],"env":["=B"]}"#,
                r#"invalid environment variable: "=B""#,
            ),
            (
                r#"{"user":{},"cwd":"/","args":["a"],"terminal":true}"#,
                "its terminal is true, but it was given pipes",
            ),
        ] {
            let (refused, _) = lower(json);

            assert_eq!(refused.unwrap_err().to_string(), format!("process: {why}"));
        }
    }

    #[test]
    fn an_id_that_is_out_of_range_is_refused() {
        for (user, id) in [
            (r#"{"uid":4294967295}"#, 4_294_967_295_u32),
            (r#"{"gid":4294967295}"#, 4_294_967_295),
            (r#"{"additionalGids":[5,4294967295]}"#, 4_294_967_295),
            (r#"{"uid":2147483648,"gid":7}"#, 2_147_483_648),
        ] {
            let json = format!(r#"{{"user":{user},"cwd":"/","args":["a"]}}"#);

            let (refused, _) = lower(&json);

            assert_eq!(
                refused.unwrap_err().to_string(),
                format!("process: user: {id}: uids and gids must be in range 0-2147483647")
            );
        }
        let (plan, _) = lower(r#"{"user":{"uid":2147483647},"cwd":"/","args":["a"]}"#);
        assert_eq!(plan.unwrap().uid, 2_147_483_647);
    }

    #[test]
    fn a_nul_in_an_argument_is_named() {
        let (refused, _) = lower(r#"{"user":{},"cwd":"/","args":["a\u0000b"]}"#);

        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("has a NUL character inside")
        );
    }

    #[test]
    fn what_a_process_does_not_say_comes_from_its_container() {
        let process: Process =
            serde_json::from_str(r#"{"user":{},"cwd":"/","args":["a"]}"#).unwrap();
        let defaults = ExecDefaults {
            capabilities: CapabilitySet {
                effective: 5,
                ..CapabilitySet::default()
            },
            rlimits: vec![(7, 10, 20)],
            oom_score_adj: Some(100),
            ..ExecDefaults::default()
        };

        let plan = lower_process(&process, false, &defaults, &mut Warnings::new()).unwrap();

        assert_eq!(plan.capabilities.effective, 5);
        assert_eq!(plan.rlimits, [(7, 10, 20)]);
        assert_eq!(plan.oom_score_adj, Some(100));
    }

    #[test]
    fn an_ambient_capability_that_cannot_be_is_told() {
        let (plan, warnings) = lower(
            r#"{"user":{},"cwd":"/","args":["a"],"capabilities":{"bounding":["CAP_KILL"],
                "permitted":["CAP_KILL"],"inheritable":["CAP_KILL"],
                "ambient":["CAP_KILL","CAP_CHOWN"]}}"#,
        );

        assert_eq!(plan.unwrap().capabilities.ambient, 1 << 5);
        assert_eq!(
            warnings,
            ["process: ambient capabilities CAP_CHOWN: not permitted and inheritable, ignored"]
        );
    }

    #[test]
    fn a_capability_that_cannot_be_granted_is_told_and_no_error() {
        let (plan, warnings) = lower(
            r#"{"user":{},"cwd":"/","args":["a"],"capabilities":{
                "effective":["CAP_KILL"],"inheritable":["CAP_CHOWN"]}}"#,
        );

        assert_eq!(plan.unwrap().capabilities, CapabilitySet::default());
        assert_eq!(
            warnings,
            [
                "process: effective capabilities CAP_KILL: not permitted, ignored",
                "process: inheritable capabilities CAP_CHOWN: not in the bounding set, ignored",
            ]
        );
    }

    #[test]
    fn the_same_limit_twice_is_refused() {
        let (refused, _) = lower(
            r#"{"user":{},"cwd":"/","args":["a"],"rlimits":[
                {"type":"RLIMIT_NOFILE","soft":1,"hard":1},
                {"type":"RLIMIT_NOFILE","soft":2,"hard":2}]}"#,
        );

        assert_eq!(
            refused.unwrap_err().to_string(),
            "process: rlimits: RLIMIT_NOFILE is there twice"
        );
    }

    #[test]
    fn a_scheduler_is_what_the_kernel_calls_it() {
        let (plan, _) = lower(
            r#"{"user":{},"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_FIFO","priority":7,
                "flags":["SCHED_RESET_ON_FORK"],"runtime":1,"deadline":2,"period":3}}"#,
        );
        let (refused, _) =
            lower(r#"{"user":{},"cwd":"/","args":["a"],"scheduler":{"policy":"SCHED_ISO"}}"#);

        let attr = plan.unwrap().scheduler.unwrap();
        assert_eq!((attr.policy, attr.priority, attr.flags), (1, 7, 1));
        assert_eq!((attr.runtime, attr.deadline, attr.period), (1, 2, 3));
        assert!(refused.unwrap_err().to_string().contains("no such policy"));
    }

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpus("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert!(cpus("4096").is_err());
    }
}
