//! What the port promises of the stdio of a stock guest's processes: carried by calls, on a stream
//! that a relay finds as any other. For fakes and real guests alike.

use super::agent::LIMIT;
use crate::port::AgentPort;
use runtime_core::{
    agent::{
        Adopt, CreateContainer, Exec, ExitReason, ExitStatus, GuestNews, GuestProcessState,
        LinkSpec, ListProcesses, Program, RemoveContainer, Signal, SignalTarget, StartContainer,
    },
    hypervisor::GuestEndpoint,
    ids::{ContainerNumber, ExecId, ProcessId},
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use stream::{Channel, Nonce, Padding, Reader, Resume, StdinFrom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// A stock guest, and where its streams are to be.
pub trait Bench {
    /// A port as a daemon makes it; the next one is a later daemon's.
    fn port(&self) -> Rc<dyn AgentPort>;

    fn link(&self) -> LinkSpec;

    /// A container whose init runs these words.
    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer;

    /// An OCI process object that runs these words.
    fn process(&self, args: &[&str]) -> Vec<u8>;

    /// Where stream `number` is listened for.
    fn socket(&self, number: u32) -> PathBuf;
}

/// More than the window and the guest's pipe hold together.
const MUCH: usize = 700_000;

async fn linked(bench: &impl Bench) -> Rc<dyn AgentPort> {
    let port = bench.port();
    let dialed = port.dial(bench.link(), LIMIT).await;
    dialed.expect("the agent answers");
    port
}

async fn run(port: &Rc<dyn AgentPort>, bench: &impl Bench, number: u32, args: &[&str]) {
    let container = ContainerNumber(number);
    let ask = CreateContainer {
        stream: Some(GuestEndpoint::Calls(bench.socket(number))),
        ..bench.container(container, args)
    };
    let created = port.create_container(ask, LIMIT).await;
    created.expect("the container can be created");
    let started = port.start_container(
        StartContainer {
            container,
            hooks_limit: Duration::ZERO,
        },
        LIMIT,
    );
    started.await.expect("the container can be started");
}

async fn kill(port: &Rc<dyn AgentPort>, number: u32) {
    let ask = Signal {
        container: ContainerNumber(number),
        target: SignalTarget::All,
        signal: 9,
        once: None,
    };
    let killed = port.signal(ask, LIMIT).await;
    killed.expect("the container can be killed");
}

async fn remove(port: &Rc<dyn AgentPort>, number: u32) {
    let container = ContainerNumber(number);
    let removed = port.remove_container(RemoveContainer { container }, LIMIT);
    removed.await.expect("the container can be removed");
}

/// The exit, with its number.
async fn exit_of(port: &Rc<dyn AgentPort>, number: u32, process: &ProcessId) -> (u64, ExitStatus) {
    let mut after = 0;
    loop {
        let news = port.next_news(after, LIMIT, LIMIT * 2).await;
        let news = news.expect("news can be asked for");
        assert!(!news.is_empty(), "no exit of {number} {process:?} came");
        for news in news {
            after = news.seq();
            if let GuestNews::Exited(exit) = news
                && exit.container == ContainerNumber(number)
                && exit.process == *process
            {
                return (exit.seq, exit.status);
            }
        }
    }
}

/// What stands for a process on the host, reduced to its stream.
pub struct Relay {
    io: UnixStream,
    reader: Reader,
    sessions: u8,
    said: Vec<u8>,
}

impl Relay {
    /// Everything that was heard.
    pub fn said(&self) -> &[u8] {
        &self.said
    }

    async fn join(bench: &impl Bench, number: u32) -> Self {
        Self::at(&bench.socket(number)).await
    }

    /// Greets whoever carries the stream there.
    pub async fn at(socket: &Path) -> Self {
        let io = UnixStream::connect(socket).await;
        let mut relay = Self {
            io: io.expect("somebody listens"),
            reader: Reader::new(Resume::Acked, StdinFrom::Next),
            sessions: 0,
            said: Vec::new(),
        };
        relay.greet().await;
        relay
    }

    async fn greet(&mut self) {
        self.sessions += 1;
        let nonce = Nonce([self.sessions; 16]);
        self.reader.connected(nonce, Padding::None);
        while !self.reader.is_established() {
            self.step().await;
        }
    }

    /// What whoever left had said.
    async fn hear_out(&mut self) {
        let mut buffer = [0; 8192];
        while let Ok(count) = self.io.read(&mut buffer).await
            && count > 0
        {
            let fed = self.reader.feed(&buffer[..count]);
            fed.expect("the carrier keeps to the protocol");
        }
    }

    /// The same relay, with the next daemon.
    async fn rejoin(&mut self, bench: &impl Bench, number: u32) {
        let left = timeout(LIMIT, self.hear_out()).await;
        left.expect("the carrier before has left");
        let socket = bench.socket(number);
        self.io = UnixStream::connect(&socket)
            .await
            .expect("somebody listens");
        self.greet().await;
    }

    async fn flush(&mut self) {
        loop {
            let bytes = self.reader.outgoing().to_vec();
            if bytes.is_empty() {
                return;
            }
            self.io.write_all(&bytes).await.expect("the carrier reads");
            self.reader.sent(bytes.len());
        }
    }

    async fn step(&mut self) {
        self.flush().await;
        let mut buffer = [0; 8192];
        let count = timeout(LIMIT, self.io.read(&mut buffer)).await;
        let count = count.expect("the carrier says something");
        let count = count.expect("the carrier can be read");
        assert!(count > 0, "the carrier left");
        let fed = self.reader.feed(&buffer[..count]);
        fed.expect("the carrier keeps to the protocol");
        for channel in [Channel::Stdout, Channel::Stderr] {
            let bytes = self.reader.output(channel).to_vec();
            self.said.extend(&bytes);
            self.reader.output_taken(channel, bytes.len());
        }
        self.flush().await;
    }

    /// Reads until it was told so much, which is this.
    pub async fn hear(&mut self, wanted: &[u8]) {
        while self.said.len() < wanted.len() {
            self.step().await;
        }
        assert_eq!(self.said, wanted);
    }

    /// All output up to the exit is heard then.
    pub async fn exit(&mut self) -> u32 {
        loop {
            if let Some(code) = self.reader.exit() {
                self.flush().await;
                return code;
            }
            self.step().await;
        }
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        assert_eq!(self.reader.stdin(bytes), bytes.len());
        self.flush().await;
    }

    pub async fn hang_up_stdin(&mut self) {
        self.reader.end_stdin();
        self.flush().await;
    }
}

pub async fn no_byte_of_the_output_is_lost_and_the_exit_follows_it(bench: &impl Bench) {
    let port = linked(bench).await;
    let much = MUCH.to_string();
    run(&port, bench, 301, &["/bin/head", "-c", &much, "/dev/zero"]).await;

    let mut relay = Relay::join(bench, 301).await;
    let code = relay.exit().await;

    assert_eq!((code, relay.said.len()), (0, MUCH));
    let (_, status) = exit_of(&port, 301, &ProcessId::Init).await;
    assert_eq!((status.code, status.reason), (0, ExitReason::Exited));
    remove(&port, 301).await;
}

pub async fn what_is_said_to_a_process_reaches_it_and_so_does_its_end(bench: &impl Bench) {
    let port = linked(bench).await;
    run(&port, bench, 302, &["/bin/cat"]).await;
    let mut relay = Relay::join(bench, 302).await;

    relay.say(b"hello ").await;
    relay.hear(b"hello ").await;
    relay.say(b"again").await;
    relay.hear(b"hello again").await;
    relay.hang_up_stdin().await;

    assert_eq!(relay.exit().await, 0);
    assert_eq!(relay.said, b"hello again");
    remove(&port, 302).await;
}

pub async fn an_exec_has_a_stream_of_its_own(bench: &impl Bench) {
    let port = linked(bench).await;
    run(&port, bench, 303, &["/bin/sleep", "1000"]).await;
    let process = ProcessId::Exec(ExecId::new("e").expect("the suite's ids are ids"));
    let ask = Exec {
        container: ContainerNumber(303),
        process: process.clone(),
        program: Program {
            process_json: bench.process(&["/bin/echo", "from", "within"]),
            ..Program::default()
        },
        stream: Some(GuestEndpoint::Calls(bench.socket(304))),
    };

    let made = port.exec(ask, LIMIT).await;
    made.expect("the exec can be made");
    let mut relay = Relay::join(bench, 304).await;

    assert_eq!(relay.exit().await, 0);
    assert_eq!(relay.said, b"from within\n");
    assert_eq!(exit_of(&port, 303, &process).await.1.code, 0);
    kill(&port, 303).await;
    let (_, status) = exit_of(&port, 303, &ProcessId::Init).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::Signaled));
    remove(&port, 303).await;
}

/// Its output is in nobody's way.
pub async fn what_is_killed_ends_though_nobody_reads_it(bench: &impl Bench) {
    let port = linked(bench).await;
    let more = "10000000";
    run(&port, bench, 305, &["/bin/head", "-c", more, "/dev/zero"]).await;

    kill(&port, 305).await;

    let (_, status) = exit_of(&port, 305, &ProcessId::Init).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::Signaled));
    let mut late = Relay::join(bench, 305).await;
    assert_eq!(late.exit().await, 137);
    remove(&port, 305).await;
}

pub async fn a_relay_can_be_replaced(bench: &impl Bench) {
    let port = linked(bench).await;
    run(&port, bench, 306, &["/bin/cat"]).await;
    let mut first = Relay::join(bench, 306).await;
    first.say(b"one").await;
    first.hear(b"one").await;
    drop(first);

    let mut second = Relay::join(bench, 306).await;
    second.say(b"two").await;
    second.hear(b"two").await;
    second.hang_up_stdin().await;

    assert_eq!(second.exit().await, 0);
    remove(&port, 306).await;
}

pub async fn a_later_daemon_takes_over_what_an_earlier_one_made(bench: &impl Bench) {
    let first = linked(bench).await;
    run(&first, bench, 307, &["/bin/cat"]).await;
    let mut relay = Relay::join(bench, 307).await;
    relay.say(b"one ").await;
    relay.hear(b"one ").await;
    first.hang_up();
    drop(first);

    let second = bench.port();
    second.adopt(Adopt {
        container: ContainerNumber(307),
        process: ProcessId::Init,
        state: GuestProcessState::Created,
        stream: GuestEndpoint::Calls(bench.socket(307)),
    });
    let dialed = second.dial(bench.link(), LIMIT).await;
    dialed.expect("the agent answers");
    let container = ContainerNumber(307);
    let again = second.start_container(
        StartContainer {
            container,
            hooks_limit: Duration::ZERO,
        },
        LIMIT,
    );
    again
        .await
        .expect("what was started by another is already so");
    relay.rejoin(bench, 307).await;
    relay.say(b"two").await;
    relay.hear(b"one two").await;
    relay.hang_up_stdin().await;

    assert_eq!(relay.exit().await, 0);
    let (seq, status) = exit_of(&second, 307, &ProcessId::Init).await;
    assert_eq!(status.code, 0);
    assert!(seq > u64::from(u32::MAX), "numbers go on: {seq}");
    remove(&second, 307).await;
}

/// So that a daemon that dies while it writes has nothing written twice by the next one: the relay knows that it is not to
/// say it again.
pub async fn a_relay_is_told_that_its_input_was_taken_before_the_guest_is(
    bench: &impl Bench,
    hang: impl FnOnce(),
) {
    let port = linked(bench).await;
    run(&port, bench, 310, &["/bin/cat"]).await;
    let mut relay = Relay::join(bench, 310).await;
    let room = relay.reader.stdin_room();
    hang();

    relay.say(b"once").await;
    while relay.reader.stdin_room() < room {
        relay.step().await;
    }

    assert_eq!(relay.said(), b"", "the guest has taken it");
}

pub async fn an_exec_that_never_came_to_be_is_not_taken_over(bench: &impl Bench) {
    let first = linked(bench).await;
    run(&first, bench, 308, &["/bin/sleep", "1000"]).await;
    first.hang_up();
    drop(first);
    let second = bench.port();
    let exec = |id| ProcessId::Exec(ExecId::new(id).expect("the suite's ids are ids"));
    for (process, state, socket) in [
        (ProcessId::Init, GuestProcessState::Running, 308),
        (exec("never"), GuestProcessState::Making, 309),
    ] {
        second.adopt(Adopt {
            container: ContainerNumber(308),
            process,
            state,
            stream: GuestEndpoint::Calls(bench.socket(socket)),
        });
    }
    let dialed = second.dial(bench.link(), LIMIT).await;
    dialed.expect("the agent answers");

    let known = second.list(ListProcesses, LIMIT).await;
    let known = known.expect("processes can be listed");

    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!(known[0].process, ProcessId::Init);
    kill(&second, 308).await;
    assert_eq!(exit_of(&second, 308, &ProcessId::Init).await.1.code, 137);
    remove(&second, 308).await;
}

/// All of it, in order; for a real guest.
pub async fn suite(bench: &impl Bench) {
    no_byte_of_the_output_is_lost_and_the_exit_follows_it(bench).await;
    what_is_said_to_a_process_reaches_it_and_so_does_its_end(bench).await;
    an_exec_has_a_stream_of_its_own(bench).await;
    what_is_killed_ends_though_nobody_reads_it(bench).await;
    a_relay_can_be_replaced(bench).await;
    a_later_daemon_takes_over_what_an_earlier_one_made(bench).await;
    an_exec_that_never_came_to_be_is_not_taken_over(bench).await;
}
