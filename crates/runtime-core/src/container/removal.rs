//! Taking a container out of its guest, its VM and its host: every step runs, the errors are joined.

use super::{Plant, events::Event, machine::Container};
use crate::{
    agent::{Signal, SignalTarget},
    error::{Fault, Kind},
    ids::{ContainerNumber, SandboxUid},
    kit::Work,
    premises::Premises,
};
use std::{rc::Rc, time::Duration};

pub(super) async fn kill_left(
    plant: Rc<dyn Plant>,
    container: ContainerNumber,
    after: Duration,
) -> Event {
    tokio::time::sleep(after).await;
    let killed = plant.signal(Signal {
        container,
        target: SignalTarget::All,
        signal: 9,
        once: None,
    });
    let outcome = killed.await;
    if let Err(why) = &outcome {
        tracing::warn!(%why, "what a stopped container left alive was not killed");
    }
    Event::LeftKilled { outcome }
}

/// Out of guest and VM, if nothing lives in it. What fails is tried again when it is deleted.
pub(super) fn if_empty(plant: &Rc<dyn Plant>, container: &Container) -> Work<Result<bool, Fault>> {
    let (number, attached) = (container.number(), container.attached().cloned());
    let plant = plant.clone();
    let leaving = async move {
        let removed = plant.remove_empty(number).await?;
        if removed {
            plant.detach(number, attached).await?;
        }
        Ok(removed)
    };
    Box::pin(async move {
        let outcome = leaving.await;
        if let Err(why) = &outcome {
            tracing::warn!(%why, "a stopped container did not leave its guest");
        }
        outcome
    })
}

/// A container of whose removal the guest did not hear keeps all that it had, until it is asked for again.
pub(super) fn all(
    plant: &dyn Plant,
    premises: &dyn Premises,
    uid: SandboxUid,
    container: &Container,
) -> Work<Result<(), Fault>> {
    let (number, attached) = (container.number(), container.attached().cloned());
    let taken_out = match container.has_departed() {
        true => None,
        false => Some((plant.remove(number), plant.detach(number, attached))),
    };
    let cgroup = container.spec().cgroup.clone();
    let vacated = cgroup.map(|cgroup| premises.vacate(uid, cgroup));
    Box::pin(async move {
        let mut faults = Vec::new();
        if let Some((removed, detached)) = taken_out {
            match removed.await {
                Err(why) if why.kind() == Kind::Unavailable => return Err(why),
                outcome => faults.extend(outcome.err()),
            }
            faults.extend(detached.await.err());
        }
        if let Some(vacated) = vacated {
            faults.extend(vacated.await.err());
        }
        Fault::join(faults)
    })
}
