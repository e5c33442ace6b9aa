//! Running the hooks of one stage: in their order, with the container's state on their stdin.

use super::{hooks::Stage, record::ContainerSpec};
use crate::{
    agent::Warnings,
    error::{Fault, Kind},
    ids::HostProcess,
    premises::{HookRun, Premises},
};
use serde_json::json;
use tokio::sync::oneshot;

/// As of a line that a guest warns of. A bundle has 64 hooks of a kind at most.
const WARNING_BYTES_MAX: usize = 1024;

/// The state of the OCI specification. `stands`: who stands for the container's init on the host.
pub(super) fn state_json(
    spec: &ContainerSpec,
    stage: Stage,
    stands: Option<HostProcess>,
) -> Vec<u8> {
    let status = match stage {
        Stage::Create => "creating",
        Stage::Poststart => "running",
        Stage::Poststop => "stopped",
    };
    let mut state = json!({
        "ociVersion": spec.oci_version,
        "id": spec.id.as_str(),
        "status": status,
        "bundle": spec.bundle,
        "annotations": spec.annotations,
    });
    if let Some(process) = stands {
        state["pid"] = json!(process.pid);
    }
    state.to_string().into_bytes()
}

/// All of them, unless `released` comes first.
pub(super) async fn until(
    released: oneshot::Receiver<()>,
    all: impl Future<Output = Result<Warnings, Fault>>,
) -> Result<Warnings, Fault> {
    tokio::select! {
        biased;
        outcome = all => outcome,
        _ = released => Err(Fault::new(Kind::Aborted, "its hooks were stopped")),
    }
}

/// The first failure of prestart and createRuntime is the outcome; the others are warnings, and the next
/// one runs all the same.
pub(super) async fn all(
    premises: &dyn Premises,
    spec: &ContainerSpec,
    stage: Stage,
    state: Vec<u8>,
) -> Result<Warnings, Fault> {
    let mut warnings = Warnings::new();
    for hook in spec.hooks.of(stage) {
        let name = hook.name.clone();
        let run = HookRun {
            hook: hook.clone(),
            cwd: spec.bundle.clone(),
            state: state.clone(),
        };
        let outcome = premises.run_hook(run).await;
        match (outcome, stage) {
            (Ok(()), _) => {}
            (Err(why), Stage::Create) => return Err(why.during(name)),
            (Err(why), Stage::Poststart | Stage::Poststop) => {
                tracing::warn!(container = %spec.id, %why, "{name} failed");
                let mut text = format!("{name} failed: {why}");
                text.truncate(text.floor_char_boundary(WARNING_BYTES_MAX));
                warnings.push(text);
            }
        }
    }
    Ok(warnings)
}
