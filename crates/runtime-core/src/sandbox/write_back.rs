//! What [`SandboxActor`] asks of a guest before its VM ends, so that what it keeps in memory comes to its disks.

use super::{
    actor::SandboxActor,
    events::Unwritten,
    lent::{ASK_MAX, Lent, Reach, held},
};
use crate::{
    agent::{self, Warnings},
    error::{Fault, Kind},
    hypervisor,
    ids::ContainerNumber,
    kit::{Work, ask},
};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// As long as one removal may take the guest, scaled as that is: one that hangs must not keep its VM from ending.
const WRITE_BACK_MAX: Duration = Duration::from_secs(20);

/// A pause that is under way takes a VMM milliseconds, as a link that is being opened again takes its room.
const AGAIN: Duration = Duration::from_millis(50);

/// Whether there is a VM; then it is not paused.
async fn goes_on(lent: &Lent) -> Result<bool, Fault> {
    let room = held(lent.rooms().hypervisor, "hypervisor")?;
    loop {
        let resume = room.resume.clone();
        match ask(resume, hypervisor::Resume, "resume vm", ASK_MAX).await {
            Err(why) if why.kind() == Kind::Denied => {}
            outcome => return outcome.map(|()| true),
        }
        // An earlier daemon has ended it already.
        if !matches!(room.status.send(hypervisor::GetStatus).await, Ok(Some(_))) {
            return Ok(false);
        }
        sleep(AGAIN).await;
    }
}

/// It was removed, or was not there any more. A link that breaks, or just did, is opened again by its own room: whoever
/// waits for this has a bound.
async fn remove(lent: &Lent, container: ContainerNumber) -> Result<(), Fault> {
    loop {
        let room = lent.agent()?.remove_container;
        let command = agent::RemoveContainer { container };
        match ask(room, command, "remove from guest", ASK_MAX).await {
            Err(why) if why.kind() == Kind::NotFound => return Ok(()),
            Err(why) if why.kind() == Kind::Unavailable => sleep(AGAIN).await,
            outcome => return outcome,
        }
    }
}

impl SandboxActor {
    /// Has the guest kill what is left in these containers, unmount what they had, and so write it back. It had this
    /// `reach` before; one that stands still goes on for it. The rooms must be open when this is polled.
    pub(super) fn write_back(&self, unwritten: Option<Unwritten>, reach: Reach) -> Work<Warnings> {
        let Some(Unwritten { vm, containers }) = unwritten else {
            return Box::pin(async { Warnings::new() });
        };
        let limit = WRITE_BACK_MAX * self.spec().vm.accelerator.patience();
        let (lent, dial) = (self.lent.clone(), self.dial(vm));
        let written = async move {
            if reach != Reach::Linked {
                if !goes_on(&lent).await? {
                    return Ok(());
                }
                dial.await?;
            }
            let removed = join_all(containers.iter().map(|one| remove(&lent, *one))).await;
            Fault::join(removed.into_iter().filter_map(Result::err).collect())
        };
        Box::pin(async move {
            let late = || {
                let text = format!("its guest did not do it in {} s", limit.as_secs());
                Err(Fault::new(Kind::Timeout, text))
            };
            let outcome = timeout(limit, written).await;
            let Err(why) = outcome.unwrap_or_else(|_| late()) else {
                return Warnings::new();
            };
            tracing::warn!(%why, "a guest did not write to its disks before its vm ended");
            vec![format!(
                "what was written last may not be on its disks: {why}"
            )]
        })
    }
}
