//! The agent contract on the fake, and on the real port before agents in this process. On a real
//! guest: `guest`.

use agent_client::{
    call::Call,
    channel::Wire,
    contract::{
        agent::{self as contract, Bench, LIMIT, Offers},
        channel::Peer,
        peers::{HybridPeer, SerialPeer},
        server, stdio, stock as stock_agent,
    },
    fake::{FakeAgent, FakeGuest, Trouble},
    kata::{Household, KataCalls},
    port::AgentPort,
    rpc::{Link, TtrpcAgent},
};
use runtime_core::{
    agent::{
        CreateContainer, CreateSandbox, GuestNews, GuestRootfs, LinkSpec, ListProcesses, Signal,
        SignalTarget, StartContainer,
    },
    error::Kind,
    hypervisor::{Accelerator, GuestEndpoint, HostEndpoint, StdioKind},
    ids::{ContainerNumber, EpochMs},
    kit,
};
use serde_json::json;
use std::{path::PathBuf, rc::Rc, time::Duration};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::UnixStream, task::LocalSet};
use ttrpc::r#async::Server;

fn container(number: ContainerNumber, args: &[&str], rootfs: GuestRootfs) -> CreateContainer {
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 },
            "env": ["PATH=/bin:/usr/bin"]
        },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }
        ] }
    });
    CreateContainer {
        container: number,
        config_json: config.to_string().into_bytes(),
        rootfs,
        mounts: Vec::new(),
        hook_programs: Vec::new(),
        disks: Vec::new(),
        devices: Vec::new(),
        bundle: "/bundle".into(),
        stream: None,
        hooks_limit: Duration::ZERO,
    }
}

fn process(args: &[&str]) -> Vec<u8> {
    let process = json!({ "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 } });
    process.to_string().into_bytes()
}

struct TestBench {
    port: Rc<dyn AgentPort>,
    control: HostEndpoint,
    rootfs: String,
    guest: FakeGuest,
    _kept: Option<(Server, TempDir)>,
}

impl Bench for TestBench {
    fn port(&self) -> Rc<dyn AgentPort> {
        self.port.clone()
    }

    fn link(&self) -> LinkSpec {
        LinkSpec {
            control: self.control.clone(),
            accelerator: Accelerator::Tcg,
            news_recorded: 0,
            stdio: StdioKind::Ports,
        }
    }

    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer {
        container(number, args, GuestRootfs::Share(self.rootfs.clone()))
    }

    fn process(&self, args: &[&str]) -> Vec<u8> {
        process(args)
    }
}

async fn fake() -> TestBench {
    let guest = FakeGuest::new();
    TestBench {
        port: Rc::new(FakeAgent::new(guest.clone())),
        control: HostEndpoint::Socket(PathBuf::from("/nowhere")),
        rootfs: "rootfs".to_owned(),
        guest,
        _kept: None,
    }
}

/// Our agent's calls.
async fn hutch() -> TestBench {
    served(server::hutch_services).await
}

/// Over the framed control link of a serial port.
async fn served(services: fn(&FakeGuest) -> Vec<server::Services>) -> TestBench {
    let (guest, folder) = (FakeGuest::new(), TempDir::new().expect("a folder"));
    let peer = SerialPeer::new(folder.path());
    let (server, door) = server::serve(services(&guest)).await;
    let control = HostEndpoint::Socket(peer.socket().to_owned());
    kit::detach(async move { server::usher(|| peer.accept(), door).await });
    real(guest, control, server, folder)
}

/// A stock agent, over hybrid vsock.
async fn stock() -> TestBench {
    let (guest, folder) = (FakeGuest::new(), TempDir::new().expect("a folder"));
    let peer = HybridPeer::new(folder.path(), Wire::Plain);
    let (server, door) = server::serve(stock_agent::stock_services(&guest)).await;
    let control = HostEndpoint::Hybrid {
        socket: folder.path().join("vsock.sock"),
        port: 1024,
    };
    kit::detach(async move { server::usher(|| peer.accept(), door).await });
    real(guest, control, server, folder)
}

fn real(guest: FakeGuest, control: HostEndpoint, server: Server, folder: TempDir) -> TestBench {
    TestBench {
        port: Rc::new(TtrpcAgent::new()),
        control,
        rootfs: "rootfs".to_owned(),
        guest,
        _kept: Some((server, folder)),
    }
}

/// Whose time passes in a test.
enum Clock {
    /// It jumps to the next timer.
    Paused,
    Real,
}

fn run(clock: Clock, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(matches!(clock, Clock::Paused))
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

macro_rules! on {
    ($bench:ident, $clock:expr, [$($promise:ident),* $(,)?]) => {
        mod $bench {
            use super::*;
            $(
                #[test]
                fn $promise() {
                    run($clock, async { contract::$promise(&super::$bench().await).await });
                }
            )*
        }
    };
}

macro_rules! all_promises {
    ($bench:ident, $clock:expr) => {
        on!(
            $bench,
            $clock,
            [
                an_exit_is_told_until_it_is_acknowledged,
                exits_are_numbered_in_the_order_of_their_ends,
                a_poll_without_an_exit_ends_when_its_wait_is_over,
                a_poll_answers_when_an_exit_comes,
                a_signal_reaches_one_process_or_all,
                the_end_of_an_init_ends_its_container,
                only_what_nothing_lives_in_is_removed_as_empty,
                a_list_tells_where_each_process_is,
                without_a_link_a_call_is_unavailable_at_once,
                what_happened_without_a_link_is_told_over_the_next,
                what_is_not_there_is_not_found_and_removing_it_is_already_so,
                a_container_exists_once,
                an_exec_needs_a_container_and_an_id_of_its_own,
                pids_are_those_of_the_living,
                a_frozen_container_stands_still_until_it_is_thawed,
                a_frozen_container_can_be_killed,
                statistics_count_the_living,
                limits_must_be_an_object,
                what_the_guest_lacks_is_told_with_the_answer,
                a_signal_under_one_key_is_delivered_once,
                a_clock_that_was_set_is_what_exits_are_dated_by,
            ]
        );
    };
}

#[test]
fn an_exec_where_there_is_no_cgroup_is_refused_by_every_agent() {
    run(Clock::Real, async {
        for (bench, offers) in [
            (fake().await, Offers::Hutch),
            (hutch().await, Offers::Hutch),
            (served(server::first_services).await, Offers::NoPlaces),
            (stock().await, Offers::Stock),
        ] {
            contract::an_exec_where_there_is_no_cgroup_is_refused(&bench, offers).await;
        }
    });
}

all_promises!(fake, Clock::Paused);
all_promises!(hutch, Clock::Real);
on!(
    stock,
    Clock::Real,
    [
        an_exit_is_told_until_it_is_acknowledged,
        exits_are_numbered_in_the_order_of_their_ends,
        a_poll_without_an_exit_ends_when_its_wait_is_over,
        a_poll_answers_when_an_exit_comes,
        a_signal_reaches_one_process_or_all,
        the_end_of_an_init_ends_its_container,
        a_stock_agent_removes_nothing_as_empty,
        a_list_tells_where_each_process_is,
        without_a_link_a_call_is_unavailable_at_once,
        what_happened_without_a_link_is_told_over_the_next,
        a_frozen_container_stands_still_until_it_is_thawed,
        a_frozen_container_can_be_killed,
        statistics_count_the_living,
    ]
);

/// A stock agent, and the ports of one daemon after another.
struct StdioBench(TestBench);

impl stdio::Bench for StdioBench {
    fn port(&self) -> Rc<dyn AgentPort> {
        Rc::new(TtrpcAgent::new())
    }

    fn link(&self) -> LinkSpec {
        self.0.link()
    }

    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer {
        Bench::container(&self.0, number, args)
    }

    fn process(&self, args: &[&str]) -> Vec<u8> {
        process(args)
    }

    fn socket(&self, number: u32) -> PathBuf {
        let (_, folder) = self.0._kept.as_ref().expect("it is real");
        folder.path().join(format!("p{number}.sock"))
    }
}

macro_rules! carried {
    ($($promise:ident),* $(,)?) => {
        mod carried_by_calls {
            use super::*;
            $(
                #[test]
                fn $promise() {
                    run(Clock::Real, async {
                        stdio::$promise(&StdioBench(stock().await)).await;
                    });
                }
            )*
        }
    };
}

carried![
    no_byte_of_the_output_is_lost_and_the_exit_follows_it,
    what_is_said_to_a_process_reaches_it_and_so_does_its_end,
    an_exec_has_a_stream_of_its_own,
    what_is_killed_ends_though_nobody_reads_it,
    a_relay_can_be_replaced,
    a_later_daemon_takes_over_what_an_earlier_one_made,
    an_exec_that_never_came_to_be_is_not_taken_over,
];

#[test]
fn a_relay_is_told_that_its_input_was_taken_before_the_guest_is() {
    run(Clock::Real, async {
        let bench = StdioBench(stock().await);
        let hang = || bench.0.guest.hang();
        stdio::a_relay_is_told_that_its_input_was_taken_before_the_guest_is(&bench, hang).await;
    });
}

/// QEMU takes one connection at a time: the next daemon's waits for it.
#[tokio::test(flavor = "current_thread")]
async fn a_port_that_is_dropped_keeps_no_link_to_a_stock_guest() {
    let test = async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let link = Link::over(Box::new(ours));
        let household = Household::new();
        let calls = KataCalls::over(&link, &household);
        calls.serve_household();
        tokio::task::yield_now().await;

        drop((link, calls, household));

        let left = tokio::time::timeout(LIMIT, closed(theirs)).await;
        assert_eq!(left, Ok(true));
    };
    LocalSet::new().run_until(test).await;
}

/// Reads until the other end is gone.
async fn closed(mut io: UnixStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match io.read(&mut buffer).await {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_kill_for_want_of_memory_in_a_stock_guest_is_news() {
    let test = async {
        let bench = stock().await;
        bench.port.dial(bench.link(), LIMIT).await.unwrap();
        let number = ContainerNumber(1);
        let ask = bench.container(number, &["/bin/sleep", "1000"]);
        bench.port.create_container(ask, LIMIT).await.unwrap();
        assert!(bench.guest.oom(number));

        let news = bench.port.next_news(0, LIMIT, LIMIT).await.unwrap();

        let [GuestNews::OomKilled(oom)] = &news[..] else {
            panic!("{news:?}")
        };
        assert_eq!(oom.container, number);
    };
    LocalSet::new().run_until(test).await;
}

/// What it says is not taken, and its container can be ended like any other.
#[tokio::test(flavor = "current_thread")]
async fn an_agent_that_answers_with_more_than_was_asked_for_is_not_believed() {
    let test = async {
        let bench = StdioBench(stock().await);
        let port = stdio::Bench::port(&bench);
        port.dial(bench.0.link(), LIMIT).await.unwrap();
        let container = ContainerNumber(1);
        let ask = CreateContainer {
            stream: Some(GuestEndpoint::Calls(stdio::Bench::socket(&bench, 1))),
            ..Bench::container(&bench.0, container, &["/bin/liar"])
        };
        port.create_container(ask, LIMIT).await.unwrap();
        port.start_container(
            StartContainer {
                container,
                hooks_limit: Duration::ZERO,
            },
            LIMIT,
        )
        .await
        .unwrap();

        let kill = Signal {
            container,
            target: SignalTarget::All,
            signal: 9,
            once: None,
        };
        port.signal(kill, LIMIT).await.unwrap();
        let news = port.next_news(0, LIMIT, LIMIT).await.unwrap();

        let [GuestNews::Exited(exit)] = &news[..] else {
            panic!("{news:?}")
        };
        assert_eq!(exit.status.code, 137);
    };
    LocalSet::new().run_until(test).await;
}

fn sandbox() -> CreateSandbox {
    CreateSandbox {
        sandbox: "0123456789abcdef".to_owned(),
        hostname: "web".to_owned(),
        share: true,
        now: Some(EpochMs(1_700_000_000_123)),
        entropy: vec![7; 32],
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_sandbox_is_prepared_the_way_that_each_agent_offers() {
    let run = async {
        for (bench, hutch) in [(hutch().await, true), (stock().await, false)] {
            let details = bench.port.dial(bench.link(), LIMIT).await.unwrap();

            bench.port.create_sandbox(sandbox(), LIMIT).await.unwrap();

            assert_eq!(details.speaks_hutch, hutch);
            assert_eq!(bench.guest.prepared_with(), Some(sandbox()));
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_that_comes_too_late_is_a_timeout_and_the_link_goes_on() {
    let run = async {
        for bench in [fake().await, hutch().await, stock().await] {
            bench.port.dial(bench.link(), LIMIT).await.unwrap();
            let ask = bench.container(ContainerNumber(1), &["/bin/true"]);
            bench.port.create_container(ask, LIMIT).await.unwrap();
            bench.guest.trouble(Call::StartContainer, Trouble::Lost);
            let container = ContainerNumber(1);
            let start = || StartContainer {
                container,
                hooks_limit: Duration::ZERO,
            };

            let short = Duration::from_millis(200);
            let late = bench.port.start_container(start(), short).await;

            let fault = late.unwrap_err();
            assert_eq!(fault.kind(), Kind::Timeout, "{fault}");
            assert_eq!(bench.port.start_container(start(), LIMIT).await, Ok(()));
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_agents_refusal_keeps_its_kind_and_becomes_one_line() {
    let run = async {
        for kind in [
            Kind::Exhausted,
            Kind::Invalid,
            Kind::Internal,
            Kind::Unsupported,
        ] {
            let bench = hutch().await;
            bench.port.dial(bench.link(), LIMIT).await.unwrap();
            bench.guest.trouble(Call::List, Trouble::Refused(kind));

            let fault = bench.port.list(ListProcesses, LIMIT).await.unwrap_err();

            assert_eq!(fault.kind(), kind);
            let line = "list processes: the agent answered: trouble in two lines";
            assert_eq!(fault.to_string(), line);
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_request_that_no_message_can_carry_is_refused_before_it_is_sent() {
    let run = async {
        let bench = hutch().await;
        bench.port.dial(bench.link(), LIMIT).await.unwrap();
        let mut ask = bench.container(ContainerNumber(1), &["/bin/true"]);
        ask.config_json = vec![b' '; 5 << 20];

        let refused = bench.port.create_container(ask, LIMIT).await.unwrap_err();
        let after = bench.port.list(ListProcesses, LIMIT).await;

        assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
        assert_eq!(after, Ok(Vec::new()));
    };
    LocalSet::new().run_until(run).await;
}
