//! The second interface, `hutch.agent.v1.Agent`: the host's wishes, checked and passed on.

use super::{convert, whole};
use crate::{
    agent::{Agent, SignalTo},
    guest::clock,
    id::{Id, Name},
};
use async_trait::async_trait;
use protocols::asynchronous::{
    hutch_agent::{
        AckExitsRequest, AckExitsResponse, CreateRequest, ExecRequest, FreezeRequest,
        FreezeResponse, ListRequest, ListResponse, NextExitsRequest, NextExitsResponse, PidEntry,
        PidsRequest, PidsResponse, ProcessCreated, RemoveEmptyResponse, RemoveRequest,
        RemoveResponse, SetClockRequest, SetClockResponse, SignalRequest, SignalResponse,
        StartRequest, StartResponse, StatsRequest, StatsResponse, UpdateRequest, UpdateResponse,
    },
    hutch_agent_ttrpc,
};
use std::{sync::Arc, time::Duration};
use ttrpc::r#async::TtrpcContext;

/// A host that waits longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(30);

pub struct Hutch(pub Arc<Agent>);

#[async_trait]
impl hutch_agent_ttrpc::Agent for Hutch {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateRequest,
    ) -> ttrpc::Result<ProcessCreated> {
        let wish = convert::new_container(request)?;
        let made = whole(self.0.clone().create(wish)).await?;
        Ok(convert::created(made))
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let id = Id::parse("container", request.container_id)?;
        whole(self.0.clone().start(id)).await?;
        Ok(StartResponse::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ProcessCreated> {
        let wish = convert::new_exec(request)?;
        let made = whole(self.0.clone().exec(wish)).await?;
        Ok(convert::created(made))
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: SignalRequest,
    ) -> ttrpc::Result<SignalResponse> {
        let to = if request.all {
            SignalTo::All(Id::parse("container", request.container_id)?)
        } else {
            SignalTo::One(Name::parse(request.container_id, request.exec_id)?)
        };
        match request.key.as_str() {
            "" => self.0.signal(&to, request.signal)?,
            key => self.0.signal_once(&to, request.signal, key)?,
        }
        Ok(SignalResponse::new())
    }

    async fn remove(
        &self,
        _: &TtrpcContext,
        request: RemoveRequest,
    ) -> ttrpc::Result<RemoveResponse> {
        let id = Id::parse("container", request.container_id)?;
        whole(self.0.clone().remove(id)).await?;
        Ok(RemoveResponse::new())
    }

    async fn remove_empty(
        &self,
        _: &TtrpcContext,
        request: RemoveRequest,
    ) -> ttrpc::Result<RemoveEmptyResponse> {
        let id = Id::parse("container", request.container_id)?;
        let mut response = RemoveEmptyResponse::new();
        response.removed = self.0.remove_empty(&id)?;
        Ok(response)
    }

    async fn list(&self, _: &TtrpcContext, _: ListRequest) -> ttrpc::Result<ListResponse> {
        Ok(convert::list(self.0.list()))
    }

    async fn next_exits(
        &self,
        _: &TtrpcContext,
        request: NextExitsRequest,
    ) -> ttrpc::Result<NextExitsResponse> {
        let limit = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        Ok(convert::exits(
            self.0.next_exits(request.after, limit).await,
        ))
    }

    async fn ack_exits(
        &self,
        _: &TtrpcContext,
        request: AckExitsRequest,
    ) -> ttrpc::Result<AckExitsResponse> {
        self.0.acknowledge(request.up_to);
        Ok(AckExitsResponse::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let id = Id::parse("container", request.container_id)?;
        let pids = self.0.pids(&id)?;
        let entry = |(pid, command)| PidEntry {
            pid,
            command,
            ..PidEntry::default()
        };
        Ok(PidsResponse {
            pids: pids.into_iter().map(entry).collect(),
            ..PidsResponse::default()
        })
    }

    async fn freeze(
        &self,
        _: &TtrpcContext,
        request: FreezeRequest,
    ) -> ttrpc::Result<FreezeResponse> {
        let id = Id::parse("container", request.container_id)?;
        match request.frozen {
            true => whole(self.0.clone().pause(id)).await?,
            false => whole(self.0.clone().resume(id)).await?,
        }
        Ok(FreezeResponse::new())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: UpdateRequest,
    ) -> ttrpc::Result<UpdateResponse> {
        let id = Id::parse("container", request.container_id)?;
        let warnings = whole(self.0.clone().update(id, request.resources_json)).await?;
        Ok(UpdateResponse {
            warnings: convert::warnings(warnings),
            ..UpdateResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let id = Id::parse("container", request.container_id)?;
        let stats = whole(self.0.clone().stats(id)).await?;
        Ok(StatsResponse {
            files: stats.into_iter().collect(),
            at_ms: clock::now_ms(),
            ..StatsResponse::default()
        })
    }

    async fn set_clock(
        &self,
        _: &TtrpcContext,
        request: SetClockRequest,
    ) -> ttrpc::Result<SetClockResponse> {
        clock::set(request.sec, request.nsec)?;
        clock::stir(&request.entropy)?;
        Ok(SetClockResponse::new())
    }
}
