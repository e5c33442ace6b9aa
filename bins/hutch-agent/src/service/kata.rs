//! The first interface, `grpc.AgentService`: which call is done where, and which is not built.

mod containers;
mod guest;
mod sandbox;
mod stdio;

use crate::{agent::Agent, error::Error};
use async_trait::async_trait;
use protocols::asynchronous::{
    agent::{self as messages},
    agent_ttrpc::AgentService,
    empty::Empty,
    types,
};
use std::sync::Arc;
use ttrpc::r#async::TtrpcContext;

pub struct Kata(pub Arc<Agent>);

/// Writes out the service: a row for each call.
macro_rules! calls {
    (
        built { $($call:ident($request:ident) -> $answer:path => $does:path;)* }
        missing { $($absent:ident($wish:ident) -> $nothing:path = $name:literal;)* }
    ) => {
        #[async_trait]
        impl AgentService for Kata {
            $(async fn $call(
                &self,
                _: &TtrpcContext,
                request: messages::$request,
            ) -> ttrpc::Result<$answer> {
                Ok($does(&self.0, request).await?)
            })*
            $(async fn $absent(
                &self,
                _: &TtrpcContext,
                _: messages::$wish,
            ) -> ttrpc::Result<$nothing> {
                Err(Error::Unsupported { call: $name }.into())
            })*
        }

        #[cfg(test)]
        const BUILT: &[&str] = &[$(stringify!($call)),*];
        #[cfg(test)]
        const MISSING: &[&str] = &[$($name),*];
    };
}

calls! {
    built {
        create_container(CreateContainerRequest) -> Empty => containers::create;
        start_container(StartContainerRequest) -> Empty => containers::start;
        remove_container(RemoveContainerRequest) -> Empty => containers::remove;
        exec_process(ExecProcessRequest) -> Empty => containers::exec;
        signal_process(SignalProcessRequest) -> Empty => containers::signal;
        wait_process(WaitProcessRequest) -> messages::WaitProcessResponse => containers::wait;
        update_container(UpdateContainerRequest) -> Empty => containers::update;
        pause_container(PauseContainerRequest) -> Empty => containers::pause;
        resume_container(ResumeContainerRequest) -> Empty => containers::resume;
        write_stdin(WriteStreamRequest) -> messages::WriteStreamResponse => stdio::write;
        read_stdout(ReadStreamRequest) -> messages::ReadStreamResponse => stdio::read_stdout;
        read_stderr(ReadStreamRequest) -> messages::ReadStreamResponse => stdio::read_stderr;
        close_stdin(CloseStdinRequest) -> Empty => stdio::close_stdin;
        tty_win_resize(TtyWinResizeRequest) -> Empty => stdio::resize;
        create_sandbox(CreateSandboxRequest) -> Empty => sandbox::create;
        get_oom_event(GetOOMEventRequest) -> messages::OOMEvent => sandbox::next_oom;
        get_guest_details(GuestDetailsRequest) -> messages::GuestDetailsResponse
            => guest::details;
        online_cpu_mem(OnlineCPUMemRequest) -> Empty => guest::online;
        mem_hotplug_by_probe(MemHotplugByProbeRequest) -> Empty => guest::probe_memory;
        set_guest_date_time(SetGuestDateTimeRequest) -> Empty => guest::set_time;
        reseed_random_dev(ReseedRandomDevRequest) -> Empty => guest::reseed;
        destroy_sandbox(DestroySandboxRequest) -> Empty => guest::end;
    }
    missing {
        stats_container(StatsContainerRequest) -> messages::StatsContainerResponse
            = "StatsContainer";
        list_interfaces(ListInterfacesRequest) -> messages::Interfaces = "ListInterfaces";
        list_routes(ListRoutesRequest) -> messages::Routes = "ListRoutes";
        update_ephemeral_mounts(UpdateEphemeralMountsRequest) -> Empty
            = "UpdateEphemeralMounts";
        remove_stale_virtiofs_share_mounts(RemoveStaleVirtiofsShareMountsRequest) -> Empty
            = "RemoveStaleVirtiofsShareMounts";
        get_diagnostic_data(GetDiagnosticDataRequest) -> messages::GetDiagnosticDataResponse
            = "GetDiagnosticData";
        update_interface(UpdateInterfaceRequest) -> types::Interface = "UpdateInterface";
        update_routes(UpdateRoutesRequest) -> messages::Routes = "UpdateRoutes";
        add_arp_neighbors(AddARPNeighborsRequest) -> Empty = "AddARPNeighbors";
        get_ip_tables(GetIPTablesRequest) -> messages::GetIPTablesResponse = "GetIPTables";
        set_ip_tables(SetIPTablesRequest) -> messages::SetIPTablesResponse = "SetIPTables";
        get_metrics(GetMetricsRequest) -> messages::Metrics = "GetMetrics";
        mem_agent_memcg_set(MemAgentMemcgConfig) -> Empty = "MemAgentMemcgSet";
        mem_agent_compact_set(MemAgentCompactConfig) -> Empty = "MemAgentCompactSet";
        copy_file(CopyFileRequest) -> Empty = "CopyFile";
        add_swap(AddSwapRequest) -> Empty = "AddSwap";
        add_swap_path(AddSwapPathRequest) -> Empty = "AddSwapPath";
        get_volume_stats(VolumeStatsRequest) -> messages::VolumeStatsResponse = "GetVolumeStats";
        resize_volume(ResizeVolumeRequest) -> Empty = "ResizeVolume";
        set_policy(SetPolicyRequest) -> Empty = "SetPolicy";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOL: &str = include_str!("../../../../crates/protocols/proto/agent.proto");

    /// A row cannot be there twice or name no call: the compiler sees to that. A call without a
    /// row would answer as if it were unknown.
    #[test]
    fn every_call_of_the_protocol_has_its_row() {
        let calls: Vec<_> = PROTOCOL
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "))
            .filter_map(|call| call.split('(').next())
            .collect();

        assert_eq!(calls.len(), 42);
        assert_eq!(BUILT.len() + MISSING.len(), calls.len());
        for missing in MISSING {
            assert!(calls.contains(missing), "{missing}");
        }
    }
}
