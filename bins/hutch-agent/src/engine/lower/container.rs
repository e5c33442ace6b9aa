//! A whole config.json.

use super::{
    c_string, devices, hooks, id_map, invalid, mounts,
    namespaces::{Namespaces, lower_namespaces},
    plain_path,
    process::{ExecDefaults, lower_process},
    seccomp,
};
use crate::engine::{
    api::CreatePlan,
    error::Result,
    plan::{InitPlan, ProcessPlan, RootPlan, SeccompFilter},
    spec::Warnings,
};
use oci_spec::runtime::{Linux, LinuxPersonality, LinuxPersonalityDomain, LinuxResources, Spec};
use std::{collections::HashMap, fmt::Write};

/// From linux/personality.h.
const PER_LINUX: u32 = 0;
const PER_LINUX32: u32 = 8;

/// All that making a container takes, in the order in which it is used.
#[derive(Debug)]
pub struct Lowered {
    pub resources: LinuxResources,
    pub namespaces: Namespaces,
    /// Texts for uid_map and gid_map, if it has a user namespace.
    pub id_maps: Option<(String, String)>,
    /// Lines for timens_offsets, if it has a time namespace of its own.
    pub time_offsets: Option<String>,
    pub plan: InitPlan,
    pub exec_defaults: ExecDefaults,
}

/// # Errors
/// A config that makes no sense or asks for what the guest cannot give.
// tidy: one field after the other into one structure
pub fn lower_container(
    spec: &Spec,
    asked: &CreatePlan,
    terminal: bool,
    warnings: &mut Warnings,
) -> Result<Lowered> {
    let Some(process) = spec.process() else {
        return invalid("config.json", "process property must not be empty");
    };
    let none = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&none);
    name_what_the_guest_has_not(spec, linux, warnings);
    let wanted = linux.namespaces().clone().unwrap_or_default();
    let namespaces = lower_namespaces(&wanted, &asked.namespaces)?;
    let user_namespace = namespaces.enter & libc::CLONE_NEWUSER != 0;
    for (name, value) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        if value.as_ref().is_some_and(|name| !name.is_empty()) && namespaces.uts_is_the_guests {
            return invalid(name, "cannot be set without a uts namespace");
        }
    }
    let silent = ExecDefaults {
        personality: linux
            .personality()
            .as_ref()
            .map(|one| personality(one, warnings)),
        // Cut off: the kernel takes no long names, and any name that differs will do.
        keyring: c_string(&format!("_ses.{:.128}", asked.id), || "id".to_owned())?,
        seccomp: filter(linux, warnings)?,
        ..ExecDefaults::default()
    };
    let process = ProcessPlan {
        // By the specification it is for execs alone.
        cpu_affinity: None,
        ..lower_process(process, terminal, &silent, warnings)?
    };
    let exec_defaults = ExecDefaults {
        capabilities: process.capabilities,
        rlimits: process.rlimits.clone(),
        oom_score_adj: process.oom_score_adj,
        ..silent
    };
    let all_mounts = spec.mounts().clone().unwrap_or_default();
    let id_maps = id_maps(linux, user_namespace)?;
    let sources = &asked.bind_sources;
    let mounts = mounts::lower_mounts(&all_mounts, sources, id_maps.as_ref(), warnings)?;
    let dev_is_given = mounts.iter().any(|step| {
        step.destination.trim_end_matches('/') == "/dev"
            && matches!(step.what, crate::engine::plan::MountWhat::Bind { .. })
    });
    Ok(Lowered {
        resources: linux.resources().clone().unwrap_or_default(),
        id_maps,
        time_offsets: time_offsets(linux, namespaces.own_time)?,
        plan: InitPlan {
            join: namespaces.join.iter().map(|(_, kinds)| *kinds).collect(),
            own_cgroup_namespace: namespaces.own_cgroup,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            sysctls: sysctls(linux)?,
            root: root(spec, linux, asked, user_namespace)?,
            mounts,
            devices: if dev_is_given {
                None
            } else {
                Some(devices::lower_devices(
                    linux.devices().as_deref().unwrap_or_default(),
                    &asked.disks,
                )?)
            },
            masked_paths: linux.masked_paths().clone().unwrap_or_default(),
            readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
            hooks: hooks::lower_hooks(spec, asked)?,
            process,
        },
        namespaces,
        exec_defaults,
    })
}

/// One warning for each thing that is there and cannot be honoured, with the reason.
fn name_what_the_guest_has_not(spec: &Spec, linux: &Linux, warnings: &mut Warnings) {
    let elsewhere = "containers of another platform have it";
    for (asked, what, why) in [
        (
            spec.vm().is_some(),
            "vm",
            "the configuration of hutchd says what a VM is made of",
        ),
        (spec.solaris().is_some(), "solaris", elsewhere),
        (spec.windows().is_some(), "windows", elsewhere),
    ] {
        if asked {
            warnings.push(format!("config.json: {what}: {why}, ignored"));
        }
    }
    let moved = linux.net_devices().as_ref();
    for (asked, what, why) in [
        (
            moved.is_some_and(|list| !list.is_empty()),
            "netDevices",
            "devices of the host's network stay there",
        ),
        (
            linux.memory_policy().is_some(),
            "memoryPolicy",
            "the guest's memory is one node",
        ),
        (
            linux.intel_rdt().is_some(),
            "intelRdt",
            "caches and memory bandwidth are shared out by the host alone",
        ),
        (
            linux
                .mount_label()
                .as_ref()
                .is_some_and(|label| !label.is_empty()),
            "mountLabel",
            "the guest's kernel has no SELinux",
        ),
    ] {
        if asked {
            warnings.push(format!("linux.{what}: {why}, ignored"));
        }
    }
}

fn root(spec: &Spec, linux: &Linux, asked: &CreatePlan, user_namespace: bool) -> Result<RootPlan> {
    let propagation = linux
        .rootfs_propagation()
        .as_deref()
        .filter(|word| !word.is_empty())
        .map(|word| match mounts::propagation(word) {
            Some(flags) => Ok(flags),
            None => invalid(
                "linux.rootfsPropagation",
                format!("{word:?} is no propagation"),
            ),
        })
        .transpose()?;
    Ok(RootPlan {
        path: plain_path(&asked.rootfs, || "rootfs".to_owned())?,
        readonly: spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false),
        propagation,
        user_namespace,
    })
}

/// Keys have dots or slashes between their parts; the first of the two to come says which.
fn sysctls(linux: &Linux) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        let path = match key.find(['.', '/']) {
            Some(at) if key.as_bytes()[at] == b'/' => key.clone(),
            // A dot in a name, as that of a network device may have, is a slash in such a key.
            _ => key
                .chars()
                .map(|one| match one {
                    '.' => '/',
                    '/' => '.',
                    other => other,
                })
                .collect(),
        };
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return invalid(format!("sysctl {key:?}"), "is no name of a setting");
        }
        all.push((path, value.clone()));
    }
    all.sort();
    Ok(all)
}

fn filter(linux: &Linux, warnings: &mut Warnings) -> Result<Option<SeccompFilter>> {
    match linux.seccomp() {
        None => Ok(None),
        Some(profile) => seccomp::compile(profile, warnings).map(Some),
    }
}

fn personality(wanted: &LinuxPersonality, warnings: &mut Warnings) -> u32 {
    for flag in wanted.flags().iter().flatten() {
        warnings.push(format!(
            "linux.personality: flag {flag:?} is not known, ignored"
        ));
    }
    match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    }
}

fn time_offsets(linux: &Linux, own: bool) -> Result<Option<String>> {
    let offsets: HashMap<_, _> = linux.time_offsets().clone().unwrap_or_default();
    if !own {
        return if offsets.is_empty() {
            Ok(None)
        } else {
            invalid(
                "linux.timeOffsets",
                "cannot be set without a time namespace",
            )
        };
    }
    let mut clocks: Vec<_> = offsets.into_iter().collect();
    clocks.sort_by(|one, other| one.0.cmp(&other.0));
    let mut lines = String::new();
    for (clock, offset) in clocks {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return invalid(
                "linux.timeOffsets",
                format!("{clock:?} is no clock with an offset"),
            );
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        writeln!(lines, "{clock} {seconds} {nanoseconds}").expect("a string takes all");
    }
    Ok(Some(lines))
}

fn id_maps(linux: &Linux, user_namespace: bool) -> Result<Option<(String, String)>> {
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    match (user_namespace, uids.is_empty(), gids.is_empty()) {
        (false, true, true) => Ok(None),
        (false, _, _) => invalid("linux.uidMappings", "need a user namespace"),
        (true, false, false) => Ok(Some((id_map(uids), id_map(gids)))),
        (true, _, _) => invalid("user namespace", "has no uidMappings or no gidMappings"),
    }
}
