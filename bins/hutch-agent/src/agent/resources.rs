//! What containers may use and do use: freezing, limits, numbers, kills for want of memory.

use super::{Agent, End, State, blocking, engine_failed};
use crate::{
    engine::Stats,
    error::Error,
    guest::clock,
    id::{Id, Name},
    oom,
};
use std::{mem, sync::Arc, time::Duration};
use tokio::{runtime::Handle, time::sleep};

/// A container is started that soon after it was created, if whoever created it waits for nothing else.
const STARTED_WITHIN: Duration = Duration::from_secs(1);

impl Agent {
    /// Freezes every process of a container; already so is fine.
    ///
    /// # Errors
    /// There is none, its init has ended, or the kernel does not get there in time.
    pub async fn pause(self: Arc<Self>, id: Id) -> Result<(), Error> {
        let busy = self.busy(&id)?;
        let _busy = busy.write().await;
        let (agent, name) = (self.clone(), id.clone());
        let paused = blocking(move || agent.engine.pause(name.as_str())).await;
        paused.map_err(engine_failed(|| format!("pause container {id}")))
    }

    /// Thaws them; already so is fine.
    ///
    /// # Errors
    /// There is none, or the kernel does not get there in time.
    pub async fn resume(self: Arc<Self>, id: Id) -> Result<(), Error> {
        let busy = self.busy(&id)?;
        let _busy = busy.write().await;
        let (agent, name) = (self.clone(), id.clone());
        let resumed = blocking(move || agent.engine.resume(name.as_str())).await;
        resumed.map_err(engine_failed(|| format!("resume container {id}")))
    }

    /// Changes the limits of a container: an OCI `linux.resources` object. Gives warnings.
    ///
    /// # Errors
    /// There is none, or a limit is refused; then all are as they were.
    pub async fn update(
        self: Arc<Self>,
        id: Id,
        resources_json: Vec<u8>,
    ) -> Result<Vec<String>, Error> {
        let busy = self.busy(&id)?;
        let _busy = busy.write().await;
        let (agent, name) = (self.clone(), id.clone());
        let updated = blocking(move || agent.engine.update(name.as_str(), &resources_json)).await;
        let warnings = updated.map_err(engine_failed(|| format!("update container {id}")))?;
        for warning in &warnings {
            crate::note!("container {id}: {warning}");
        }
        Ok(warnings)
    }

    /// What the kernel counts of a container. Waits for nobody who changes it.
    ///
    /// # Errors
    /// There is none.
    pub async fn stats(self: Arc<Self>, id: Id) -> Result<Stats, Error> {
        drop(self.busy(&id)?);
        let (agent, name) = (self.clone(), id.clone());
        let stats = blocking(move || agent.engine.stats(name.as_str())).await;
        stats.map_err(engine_failed(|| format!("count container {id}")))
    }

    /// What a creation leaves to be done, while its caller has the answer already.
    pub(super) fn tidy_up_behind(self: &Arc<Self>, id: &Id) {
        let (agent, id) = (self.clone(), id.clone());
        let tasks = Handle::current();
        tokio::task::spawn_blocking(move || agent.watch_memory(&id, &tasks));
        // Most are started at once, and would wait behind it.
        let agent = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(STARTED_WITHIN).await;
            if let Some(agent) = agent.upgrade() {
                agent.make_ready_behind();
            }
        });
    }

    /// While nobody waits for it.
    pub(super) fn make_ready_behind(self: &Arc<Self>) {
        let agent = self.clone();
        tokio::task::spawn_blocking(move || agent.make_ready());
    }

    /// Tells of kills for want of memory as they happen, for as long as there is the container. Of one that happened
    /// before, the watch tells as it begins.
    fn watch_memory(self: &Arc<Self>, id: &Id, tasks: &Handle) {
        let Ok(file) = self.engine.oom_watch(id.as_str()) else {
            return;
        };
        let (agent, id) = (Arc::downgrade(self), id.clone());
        tasks.spawn(oom::on_change(file, move || {
            if let Some(agent) = agent.upgrade() {
                agent.look_for_kills(&mut agent.state(), &id);
            }
        }));
    }

    /// So that the next container need not wait for what can be there before it is asked for.
    pub fn make_ready(&self) {
        let ready = self.engine.make_ready();
        if let Err(error) = ready.map_err(engine_failed(|| "make ready for a container".to_owned()))
        {
            crate::note!("{}", error.chain());
        }
    }

    /// Whether such a kill is behind an exit by SIGKILL that is being told; it is told before it.
    pub(super) fn claim_kill(&self, state: &mut State, name: &Name) -> bool {
        self.look_for_kills(state, &name.container);
        let Some(place) = state.places.get_mut(&name.container) else {
            return false;
        };
        let live = place.processes.get(&name.process);
        if live.is_some_and(|live| live.end == End::Ours) {
            return false;
        }
        let told = place.kills.told;
        mem::replace(&mut place.kills.claimed, told) < told
    }

    fn look_for_kills(&self, state: &mut State, container: &Id) {
        // A group that is gone was looked at when it went.
        if let Ok(kills) = self.engine.oom_kills(container.as_str()) {
            self.tell_kills(state, container, kills);
        }
    }

    /// The kernel has counted so many in all.
    pub(super) fn tell_kills(&self, state: &mut State, container: &Id, kills: u64) {
        let Some(place) = state.places.get_mut(container) else {
            return;
        };
        let new = kills.saturating_sub(place.kills.told);
        if new == 0 {
            return;
        }
        place.kills.told = kills;
        state.table.killed(container, new, clock::now_ms());
        self.oom.push(container.clone());
        self.changed();
    }
}
