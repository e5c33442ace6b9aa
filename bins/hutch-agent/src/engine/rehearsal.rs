//! What becomes of a config, a process or limits before the guest is touched: everything that is
//! decided in making a container, and nothing that is done. For those who try what nobody writes.

use super::{
    api::CreatePlan,
    cgroup::{self, Before},
    error::Result,
    lower::{self, ExecDefaults},
    plan::Plan,
    spec::{self, Warnings},
};
use std::path::PathBuf;

/// What a container or process would be told to do, as it is sent, and what would be warned of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    pub plan: Vec<u8>,
    pub warnings: Vec<String>,
}

/// A container of that config.json, with a terminal if it asks for one.
///
/// # Errors
/// What its creation would say before anything was made.
pub fn config(json: &[u8]) -> Result<Rehearsed> {
    let mut warnings = Warnings::new();
    let spec = spec::parse_config(json, &mut warnings)?;
    let process = spec.process().as_ref();
    let terminal = process.and_then(|one| one.terminal()).unwrap_or(false);
    let asked = CreatePlan {
        id: "rehearsal".to_owned(),
        config_json: Vec::new(),
        rootfs: PathBuf::from("/run/rootfs"),
        bind_sources: Default::default(),
        namespaces: Default::default(),
        hook_programs: Default::default(),
        disks: Vec::new(),
        host_devices: None,
        bundle: "/bundle".to_owned(),
    };
    let lowered = lower::lower_container(&spec, &asked, terminal, &mut warnings)?;
    cgroup::lower_limits(&lowered.resources, &Before::default(), &mut warnings)?;
    let rules = lowered.resources.devices().as_deref().unwrap_or_default();
    let rules = cgroup::lower_rules(rules.iter().chain(&lower::default_rules()))?;
    let _ = cgroup::compile_devices(&rules);
    sent(&Plan::Init(Box::new(lowered.plan)), warnings)
}

/// A process of that process.json in a container that says nothing.
///
/// # Errors
/// What its start would say before anything was made.
pub fn process(json: &[u8]) -> Result<Rehearsed> {
    let mut warnings = Warnings::new();
    let process = spec::parse_process(json, &mut warnings)?;
    let terminal = process.terminal().unwrap_or(false);
    let defaults = ExecDefaults::default();
    let process = lower::lower_process(&process, terminal, &defaults, &mut warnings)?;
    let steps = super::plan::ExecSteps {
        namespaces: 0,
        user_namespace: false,
        process,
    };
    sent(&Plan::Exec(Box::new(steps)), warnings)
}

fn sent(plan: &Plan, warnings: Warnings) -> Result<Rehearsed> {
    let plan = postcard::to_stdvec(plan).expect("a plan is made of what can be sent");
    Ok(Rehearsed { plan, warnings })
}
