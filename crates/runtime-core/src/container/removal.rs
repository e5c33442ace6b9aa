//! Taking a container out of its guest, its VM and its host: every step runs, the errors are joined.

use super::{Plant, machine::Container};
use crate::{
    error::{Fault, Kind},
    ids::SandboxUid,
    kit::Work,
    premises::Premises,
};

/// A container of whose removal the guest did not hear keeps all that it had, until it is asked for again.
pub(super) fn all(
    plant: &dyn Plant,
    premises: &dyn Premises,
    uid: SandboxUid,
    container: &Container,
) -> Work<Result<(), Fault>> {
    let (number, attached) = (container.number(), container.attached().cloned());
    let (removed, detached) = (plant.remove(number), plant.detach(number, attached));
    let cgroup = container.spec().cgroup.clone();
    let vacated = cgroup.map(|cgroup| premises.vacate(uid, cgroup));
    Box::pin(async move {
        let mut faults = Vec::new();
        match removed.await {
            Err(why) if why.kind() == Kind::Unavailable => return Err(why),
            outcome => faults.extend(outcome.err()),
        }
        faults.extend(detached.await.err());
        if let Some(vacated) = vacated {
            faults.extend(vacated.await.err());
        }
        Fault::join(faults)
    })
}
