//! The part of [`Api`] that changes a living container, signals it, and counts what it uses.

use crate::{
    api::{Api, Target, asked, key_of, parsed},
    bundle,
    convert::{ooms, stats},
};
use protocols::asynchronous::hutch::{
    KillRequest, NextOomsRequest, NextOomsResponse, PauseRequest, ResumeRequest, StatsRequest,
    StatsResponse, UpdateRequest, UpdateResponse,
};
use runtime_core::{
    container::{Freeze, FreezeContainer, NextOoms, ProcessCommand, UpdateLimits},
    error::{Fault, Kind},
    ids::{ProcessId, RequestKey},
    process::Kill,
    sandbox::{FreezeIn, GetStatsOf, NextOomsIn, UpdateIn},
};
use std::time::Duration;

/// The protocol promises it: a caller that has gone is not waited for much longer.
const OOM_WAIT_MAX: Duration = Duration::from_secs(30);
pub(crate) const SIGTERM: u32 = libc::SIGTERM as u32;
const SIGKILL: u32 = libc::SIGKILL as u32;

/// The SIGKILL that goes after another signal. Asked again, it has the same key again.
///
/// # Errors
/// `Invalid`: the first one's key leaves no room for another (five bytes).
pub(crate) fn follows(first: &Kill) -> Result<Kill, Fault> {
    let key = first.key.as_ref();
    let key = key.map(|key| parsed(RequestKey::new(format!("{}+kill", key.as_str()))));
    Ok(Kill {
        key: key.transpose()?,
        signal: SIGKILL,
        all: first.all,
    })
}

impl Api {
    pub(crate) async fn kill_process(&self, request: &KillRequest) -> Result<(), Fault> {
        let kill = Kill {
            key: key_of(&request.key)?,
            signal: request.signal,
            all: request.all,
        };
        let Target { located, process } = self.target(request.process.get_or_default()).await?;
        let follows = match (&process, request.signal) {
            (ProcessId::Init, SIGTERM) if self.facts.sigterm_kills => Some(follows(&kill)?),
            _ => None,
        };
        let kill = ProcessCommand::Kill(process.clone(), kill);
        self.command(located.clone(), kill).await?;
        let Some(second) = follows else { return Ok(()) };
        match self
            .command(located, ProcessCommand::Kill(process, second))
            .await
        {
            // The first was enough.
            Err(why) if why.kind() == Kind::Denied => Ok(()),
            done => done,
        }
    }

    pub(crate) async fn pause_container(&self, request: &PauseRequest) -> Result<(), Fault> {
        let (namespace, id) = (&request.namespace, &request.container_id);
        self.freeze(namespace, id, &request.key, Freeze::Pause)
            .await
    }

    pub(crate) async fn resume_container(&self, request: &ResumeRequest) -> Result<(), Fault> {
        let (namespace, id) = (&request.namespace, &request.container_id);
        self.freeze(namespace, id, &request.key, Freeze::Resume)
            .await
    }

    async fn freeze(
        &self,
        namespace: &str,
        id: &str,
        key: &str,
        wish: Freeze,
    ) -> Result<(), Fault> {
        let key = key_of(key)?;
        let located = self.find(namespace, id).await?;
        let freeze = FreezeIn {
            container: located.place.number,
            freeze: FreezeContainer { key, wish },
        };
        asked(located.sandbox.send(freeze).await)?
    }

    pub(crate) async fn update_container(
        &self,
        request: &UpdateRequest,
    ) -> Result<UpdateResponse, Fault> {
        key_of(&request.key)?;
        bundle::check_resources_json(&request.resources_json)?;
        let located = self.find(&request.namespace, &request.container_id).await?;
        let resources = request.resources_json.clone();
        let update = UpdateIn {
            container: located.place.number,
            update: UpdateLimits { resources },
        };
        let warnings = asked(located.sandbox.send(update).await)??;
        Ok(UpdateResponse {
            warnings,
            ..Default::default()
        })
    }

    pub(crate) async fn container_stats(
        &self,
        request: &StatsRequest,
    ) -> Result<StatsResponse, Fault> {
        let located = self.find(&request.namespace, &request.container_id).await?;
        let question = GetStatsOf(located.place.number);
        let counted = asked(located.sandbox.send(question).await)??;
        Ok(stats(&counted))
    }

    pub(crate) async fn container_ooms(
        &self,
        request: &NextOomsRequest,
    ) -> Result<NextOomsResponse, Fault> {
        let located = self.find(&request.namespace, &request.container_id).await?;
        let wait = Duration::from_millis(request.wait_ms.into()).min(OOM_WAIT_MAX);
        let next = NextOomsIn {
            container: located.place.number,
            next: NextOoms {
                after: request.after,
                wait,
            },
        };
        let found = asked(located.sandbox.send(next).await)??;
        Ok(ooms(&found))
    }
}
