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
        AckExitsRequest, AckExitsResponse, CreateRequest, ExecRequest, ListRequest, ListResponse,
        NextExitsRequest, NextExitsResponse, PidEntry, PidsRequest, PidsResponse, ProcessCreated,
        RemoveRequest, RemoveResponse, SetClockRequest, SetClockResponse, SignalRequest,
        SignalResponse, StartRequest, StartResponse,
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
        let pid = whole(self.0.clone().create(wish)).await?;
        Ok(created(pid))
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let id = Id::parse("container", request.container_id)?;
        whole(self.0.clone().start(id)).await?;
        Ok(StartResponse::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ProcessCreated> {
        let wish = convert::new_exec(request)?;
        let pid = whole(self.0.clone().exec(wish)).await?;
        Ok(created(pid))
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

    async fn list(&self, _: &TtrpcContext, _: ListRequest) -> ttrpc::Result<ListResponse> {
        Ok(convert::list(self.0.list()))
    }

    async fn next_exits(
        &self,
        _: &TtrpcContext,
        request: NextExitsRequest,
    ) -> ttrpc::Result<NextExitsResponse> {
        let limit = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        let exits = self.0.next_exits(request.after, limit).await;
        Ok(NextExitsResponse {
            exits: exits.into_iter().map(convert::exit).collect(),
            ..NextExitsResponse::default()
        })
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

fn created(pid: u32) -> ProcessCreated {
    ProcessCreated {
        pid,
        ..ProcessCreated::default()
    }
}
