//! What every agent port promises, on a guest of its own.
//!
//! The promises use container numbers of their own and leave nothing behind, so that all of them
//! can run on one guest, in any order. Exits are read from where the bench says.

pub use super::{
    execs::{
        an_exec_needs_a_container_and_an_id_of_its_own, an_exec_where_there_is_no_cgroup_is_refused,
    },
    removal::{
        a_stock_agent_removes_nothing_as_empty, only_what_nothing_lives_in_is_removed_as_empty,
        what_is_not_there_is_not_found_and_removing_it_is_already_so,
    },
    warnings::what_the_guest_lacks_is_told_with_the_answer,
};
use crate::port::AgentPort;
use runtime_core::{
    agent::{
        Attempt, CreateContainer, Exec, ExitReason, GetPids, GetStats, GuestExit, GuestNews,
        GuestProcess, GuestProcessState, LinkSpec, ListProcesses, Once, PauseContainer, Program,
        RemoveContainer, RemoveEmpty, ResumeContainer, SetClock, Signal, SignalTarget,
        StartContainer, UpdateContainer,
    },
    error::{Fault, Kind},
    ids::{ContainerNumber, EpochMs, ExecId, ProcessId, RequestKey},
};
use std::{rc::Rc, time::Duration};
use tokio::time::Instant;

/// For every call of the suite; a real guest under emulation may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How long a poll for an exit that must come waits at the guest.
const EXIT_WAIT: Duration = Duration::from_secs(20);

const SIGKILL: u32 = 9;

/// A guest, and what the suite needs to use it.
pub trait Bench {
    fn port(&self) -> Rc<dyn AgentPort>;

    fn link(&self) -> LinkSpec;

    /// A container whose init runs these words.
    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer;

    /// An OCI process object that runs these words.
    fn process(&self, args: &[&str]) -> Vec<u8>;
}

/// What agents differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offers {
    Hutch,
    /// An earlier version of ours, which puts no exec below its container's own cgroup.
    NoPlaces,
    /// No pids, and refusals of its own kinds.
    Stock,
}

pub(super) const STAYS: [&str; 2] = ["/bin/sleep", "1000"];

pub(super) fn exits_with(code: &str) -> [String; 3] {
    [
        "/bin/sh".to_owned(),
        "-c".to_owned(),
        format!("exit {code}"),
    ]
}

/// A port on which a link stands, and what was acknowledged on it.
pub(super) struct Linked<'a, B> {
    bench: &'a B,
    pub(super) port: Rc<dyn AgentPort>,
}

pub(super) async fn linked<B: Bench>(bench: &B) -> Linked<'_, B> {
    let port = bench.port();
    port.dial(bench.link(), LIMIT)
        .await
        .expect("the agent answers");
    Linked { bench, port }
}

impl<B: Bench> Linked<'_, B> {
    pub(super) async fn create(&self, number: ContainerNumber, args: &[&str]) {
        let ask = self.bench.container(number, args);
        let created = self.port.create_container(ask, LIMIT).await;
        created.expect("the container can be created");
    }

    pub(super) async fn start(&self, container: ContainerNumber) {
        let started = self.port.start_container(
            StartContainer {
                container,
                hooks_limit: Duration::ZERO,
            },
            LIMIT,
        );
        started.await.expect("the container can be started");
    }

    pub(super) async fn run(&self, number: ContainerNumber, args: &[&str]) {
        self.create(number, args).await;
        self.start(number).await;
    }

    pub(super) fn ask_exec(&self, container: ContainerNumber, id: &str, args: &[&str]) -> Exec {
        Exec {
            container,
            process: exec_id(id),
            program: Program {
                process_json: self.bench.process(args),
                ..Program::default()
            },
            stream: None,
        }
    }

    pub(super) async fn exec(&self, container: ContainerNumber, id: &str, args: &[&str]) {
        let ask = self.ask_exec(container, id, args);
        self.port
            .exec(ask, LIMIT)
            .await
            .expect("the exec can be made");
    }

    pub(super) async fn signal(
        &self,
        container: ContainerNumber,
        target: SignalTarget,
    ) -> Result<(), Fault> {
        self.signal_once(container, target, None).await
    }

    async fn signal_once(
        &self,
        container: ContainerNumber,
        target: SignalTarget,
        once: Option<Once>,
    ) -> Result<(), Fault> {
        let ask = Signal {
            container,
            target,
            signal: SIGKILL,
            once,
        };
        self.port.signal(ask, LIMIT).await
    }

    pub(super) async fn remove(&self, container: ContainerNumber) -> Result<(), Fault> {
        let ask = RemoveContainer { container };
        self.port.remove_container(ask, LIMIT).await
    }

    pub(super) async fn remove_empty(&self, container: ContainerNumber) -> Result<bool, Fault> {
        let ask = RemoveEmpty { container };
        self.port.remove_empty(ask, LIMIT).await
    }

    pub(super) async fn list(&self, container: ContainerNumber) -> Vec<GuestProcess> {
        let list = self.port.list(ListProcesses, LIMIT).await;
        let mut list = list.expect("processes can be listed");
        list.retain(|process| process.container == container);
        list
    }

    /// Polls until the exit of this process is there; every exit that came with it.
    pub(super) async fn exit_of(
        &self,
        container: ContainerNumber,
        process: &ProcessId,
    ) -> GuestExit {
        let until = Instant::now() + LIMIT;
        let mut after = 0;
        while Instant::now() < until {
            let news = self.port.next_news(after, EXIT_WAIT, LIMIT).await;
            for news in news.expect("exits can be asked for") {
                after = news.seq();
                if let GuestNews::Exited(exit) = news
                    && exit.container == container
                    && exit.process == *process
                {
                    return exit;
                }
            }
        }
        panic!("the exit of {process} in container {container} never came");
    }

    /// Removes it and acknowledges what it left.
    pub(super) async fn end(&self, container: ContainerNumber) {
        self.remove(container)
            .await
            .expect("a container can be removed");
        let exits = self.port.next_news(0, Duration::ZERO, LIMIT).await;
        if let Some(last) = exits.expect("exits can be asked for").last() {
            self.acknowledge(last.seq()).await;
        }
    }

    async fn acknowledge(&self, up_to: u64) {
        let acknowledged = self.port.ack_news(up_to, LIMIT).await;
        acknowledged.expect("exits can be acknowledged");
    }
}

pub(super) fn exec_id(id: &str) -> ProcessId {
    ProcessId::Exec(ExecId::new(id).expect("the suite's ids are ids"))
}

pub(super) fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

pub(super) fn kind<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> Kind {
    outcome.expect_err("it must be refused").kind()
}

pub async fn an_exit_is_told_until_it_is_acknowledged(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(101);
    linked.run(number, &words(&exits_with("7"))).await;

    let first = linked.exit_of(number, &ProcessId::Init).await;
    let again = linked.exit_of(number, &ProcessId::Init).await;
    linked.acknowledge(first.seq).await;
    let after = linked.port.next_news(0, Duration::ZERO, LIMIT).await;

    assert_eq!(
        (first.status.code, first.status.reason),
        (7, ExitReason::Exited)
    );
    assert_eq!(first, again);
    let left = after.expect("exits can be asked for");
    assert!(left.iter().all(|exit| exit.seq() > first.seq), "{left:?}");
    linked.end(number).await;
}

pub async fn exits_are_numbered_in_the_order_of_their_ends(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(102);
    linked.run(number, &STAYS).await;
    for (id, code) in [("a", "1"), ("b", "2"), ("c", "3")] {
        linked.exec(number, id, &words(&exits_with(code))).await;
        linked.exit_of(number, &exec_id(id)).await;
    }

    let mut codes = Vec::new();
    let exits = linked.port.next_news(0, Duration::ZERO, LIMIT).await;
    let exits = exits.expect("exits can be asked for");
    for pair in exits.windows(2) {
        assert_eq!(pair[0].seq() + 1, pair[1].seq(), "a gap");
    }
    for news in &exits {
        if let GuestNews::Exited(exit) = news
            && exit.container == number
        {
            codes.push(exit.status.code);
        }
    }

    assert_eq!(codes, [1, 2, 3]);
    linked.end(number).await;
}

pub async fn a_poll_without_an_exit_ends_when_its_wait_is_over(bench: &impl Bench) {
    let linked = linked(bench).await;
    let wait = Duration::from_millis(300);
    let begun = Instant::now();

    let exits = linked.port.next_news(u64::MAX / 2, wait, LIMIT).await;

    assert_eq!(exits.expect("exits can be asked for"), []);
    assert!(begun.elapsed() >= wait);
}

pub async fn a_poll_answers_when_an_exit_comes(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(103);
    linked.run(number, &STAYS).await;
    let last = linked.port.next_news(0, Duration::ZERO, LIMIT).await;
    let last = last.expect("exits can be asked for");
    let after = last.last().map_or(0, GuestNews::seq);

    let poll = linked.port.next_news(after, EXIT_WAIT, LIMIT);
    let (exits, killed) = tokio::join!(poll, linked.signal(number, SignalTarget::All));

    killed.expect("a container can be killed");
    let exits = exits.expect("exits can be asked for");
    let [GuestNews::Exited(exit)] = &exits[..] else {
        panic!("{exits:?}");
    };
    assert_eq!(
        (exit.status.code, exit.status.reason),
        (137, ExitReason::Signaled)
    );
    linked.end(number).await;
}

pub async fn a_signal_reaches_one_process_or_all(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(104);
    linked.run(number, &STAYS).await;
    linked.exec(number, "one", &STAYS).await;
    linked.exec(number, "two", &STAYS).await;

    let one = SignalTarget::Process(exec_id("one"));
    linked
        .signal(number, one)
        .await
        .expect("an exec can be killed");
    let exit = linked.exit_of(number, &exec_id("one")).await;
    assert_eq!(exit.status.code, 137);
    let list = linked.list(number).await;
    let state = |id: &ProcessId| list.iter().find(|p| p.process == *id).map(|p| p.state);
    assert_eq!(state(&ProcessId::Init), Some(GuestProcessState::Running));
    assert_eq!(state(&exec_id("two")), Some(GuestProcessState::Running));

    let all = linked.signal(number, SignalTarget::All).await;
    all.expect("a container can be killed");
    for process in [exec_id("two"), ProcessId::Init] {
        assert_eq!(linked.exit_of(number, &process).await.status.code, 137);
    }
    linked.end(number).await;
}

pub async fn a_signal_under_one_key_is_delivered_once(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(114);
    linked.run(number, &STAYS).await;
    linked.exec(number, "one", &STAYS).await;
    let key = RequestKey::new("once").expect("the suite's keys are keys");
    let once = |attempt| {
        let key = key.clone();
        Some(Once { key, attempt })
    };

    let one = SignalTarget::Process(exec_id("one"));
    let first = linked.signal_once(number, one.clone(), once(Attempt::First));
    first.await.expect("an exec can be killed");
    linked.exit_of(number, &exec_id("one")).await;
    let again = linked.signal_once(number, one, once(Attempt::Repeated));
    again.await.expect("it was delivered");
    let init = SignalTarget::Process(ProcessId::Init);
    let other = linked.signal_once(number, init, once(Attempt::Repeated));
    other.await.expect("the same key gets the same answer");

    let list = linked.list(number).await;
    let init = list.iter().find(|p| p.process == ProcessId::Init);
    assert_eq!(init.map(|p| p.state), Some(GuestProcessState::Running));
    linked.end(number).await;
}

pub async fn the_end_of_an_init_ends_its_container(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(105);
    linked.run(number, &STAYS).await;
    linked.exec(number, "other", &STAYS).await;

    let init = SignalTarget::Process(ProcessId::Init);
    linked
        .signal(number, init)
        .await
        .expect("an init can be killed");

    assert_eq!(
        linked.exit_of(number, &ProcessId::Init).await.status.code,
        137
    );
    assert_eq!(
        linked.exit_of(number, &exec_id("other")).await.status.code,
        137
    );
    linked.end(number).await;
}

pub async fn a_list_tells_where_each_process_is(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(106);
    let states = |list: Vec<GuestProcess>| -> Vec<(ProcessId, GuestProcessState)> {
        list.into_iter().map(|p| (p.process, p.state)).collect()
    };

    linked.create(number, &STAYS).await;
    let created = states(linked.list(number).await);
    linked.start(number).await;
    linked.exec(number, "x", &STAYS).await;
    let running = states(linked.list(number).await);
    let killed = linked.signal(number, SignalTarget::All).await;
    killed.expect("a container can be killed");
    linked.exit_of(number, &ProcessId::Init).await;
    let exited = states(linked.list(number).await);
    linked.end(number).await;

    assert_eq!(created, [(ProcessId::Init, GuestProcessState::Created)]);
    let ran = GuestProcessState::Running;
    assert_eq!(running, [(ProcessId::Init, ran), (exec_id("x"), ran)]);
    assert!(exited.contains(&(ProcessId::Init, GuestProcessState::Exited)));
    assert_eq!(linked.list(number).await, []);
}

pub async fn a_container_exists_once(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(108);
    linked.create(number, &STAYS).await;

    let again = linked.bench.container(number, &STAYS);
    let again = linked.port.create_container(again, LIMIT).await;

    assert_eq!(kind(again), Kind::AlreadyExists);
    linked.end(number).await;
}

pub async fn pids_are_those_of_the_living(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(110);
    linked.run(container, &STAYS).await;
    linked.exec(container, "x", &STAYS).await;

    let pids = linked.port.pids(GetPids { container }, LIMIT).await;
    let pids = pids.expect("pids can be listed");

    assert_eq!(pids.len(), 2, "{pids:?}");
    assert_ne!(pids[0].pid, pids[1].pid);
    linked.end(container).await;
}

/// What stands still has not ended after this, though it would have.
const STANDS_STILL: Duration = Duration::from_millis(1500);

pub async fn a_frozen_container_stands_still_until_it_is_thawed(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(113);
    linked.run(container, &["/bin/sleep", "1"]).await;
    let last = linked.port.next_news(0, Duration::ZERO, LIMIT).await;
    let after = last.expect("exits can be asked for");
    let after = after.last().map_or(0, GuestNews::seq);

    for _ in 0..2 {
        let frozen = linked
            .port
            .pause_container(PauseContainer { container }, LIMIT);
        frozen.await.expect("a frozen container is already so");
    }
    let still = linked.port.next_news(after, STANDS_STILL, LIMIT).await;
    for _ in 0..2 {
        let thawed = linked
            .port
            .resume_container(ResumeContainer { container }, LIMIT);
        thawed.await.expect("a thawed container is already so");
    }

    assert_eq!(still.expect("exits can be asked for"), []);
    let exit = linked.exit_of(container, &ProcessId::Init).await;
    assert_eq!(exit.status.code, 0);
    linked.end(container).await;
}

pub async fn a_frozen_container_can_be_killed(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(114);
    linked.run(container, &STAYS).await;
    let frozen = linked
        .port
        .pause_container(PauseContainer { container }, LIMIT);
    frozen.await.expect("it can be frozen");

    let killed = linked.signal(container, SignalTarget::All).await;

    killed.expect("a frozen container can be killed");
    let exit = linked.exit_of(container, &ProcessId::Init).await;
    assert_eq!(exit.status.code, 137);
    linked.end(container).await;
}

pub async fn statistics_count_the_living(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(115);
    linked.run(container, &STAYS).await;
    linked.exec(container, "x", &STAYS).await;

    let count = |container| linked.port.stats(GetStats { container }, LIMIT);
    let stats = count(container).await;
    let unknown = count(ContainerNumber(999)).await;

    assert_eq!(stats.expect("a container has statistics").pids.current, 2);
    assert_eq!(kind(unknown), Kind::NotFound);
    linked.end(container).await;
}

pub async fn limits_must_be_an_object(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(116);
    linked.run(container, &STAYS).await;
    let update = |json: &str| {
        let resources_json = json.as_bytes().to_vec();
        let ask = UpdateContainer {
            container,
            resources_json,
        };
        linked.port.update_container(ask, LIMIT)
    };

    let good = update(r#"{"pids": {"limit": 77}}"#).await;
    let none = update("{}").await;
    let bad = update("[").await;

    good.expect("limits can be changed");
    none.expect("nothing to change is no error");
    assert_eq!(kind(bad), Kind::Invalid);
    let stats = linked.port.stats(GetStats { container }, LIMIT).await;
    assert_eq!(stats.expect("statistics").pids.max, 77);
    linked.end(container).await;
}

pub async fn without_a_link_a_call_is_unavailable_at_once(bench: &impl Bench) {
    let port = bench.port();
    port.hang_up();
    port.hung_up().await;
    let begun = Instant::now();

    let never = port.list(ListProcesses, LIMIT).await;
    port.dial(bench.link(), LIMIT)
        .await
        .expect("the agent answers");
    let watch = port.hung_up();
    let poll = port.next_news(u64::MAX / 2, EXIT_WAIT, LIMIT);
    let (cut, ()) = tokio::join!(poll, async { port.hang_up() });
    watch.await;
    let after = port.list(ListProcesses, LIMIT).await;

    for outcome in [kind(never), kind(cut), kind(after)] {
        assert_eq!(outcome, Kind::Unavailable);
    }
    assert!(begun.elapsed() < EXIT_WAIT, "the poll outlived its link");
}

pub async fn what_happened_without_a_link_is_told_over_the_next(bench: &impl Bench) {
    let first = linked(bench).await;
    let number = ContainerNumber(111);
    first.run(number, &words(&exits_with("5"))).await;
    first.port.hang_up();

    let port = first.port.clone();
    port.dial(bench.link(), LIMIT)
        .await
        .expect("the agent answers");
    let second = Linked { bench, port };

    let exit = second.exit_of(number, &ProcessId::Init).await;
    assert_eq!(exit.status.code, 5);
    second.end(number).await;
}

pub async fn a_clock_that_was_set_is_what_exits_are_dated_by(bench: &impl Bench) {
    const LATER: EpochMs = EpochMs(2_500_000_000_000);
    let linked = linked(bench).await;
    let number = ContainerNumber(112);

    let set = linked.port.set_clock(SetClock { now: LATER }, LIMIT).await;
    set.expect("the clock can be set");
    linked.run(number, &words(&exits_with("0"))).await;

    let exit = linked.exit_of(number, &ProcessId::Init).await;
    assert!(exit.status.at >= LATER, "{:?}", exit.status);
    linked.end(number).await;
}

/// All of it, in order; for a real guest.
pub async fn suite(bench: &impl Bench, offers: Offers) {
    an_exit_is_told_until_it_is_acknowledged(bench).await;
    exits_are_numbered_in_the_order_of_their_ends(bench).await;
    a_poll_without_an_exit_ends_when_its_wait_is_over(bench).await;
    a_poll_answers_when_an_exit_comes(bench).await;
    a_signal_reaches_one_process_or_all(bench).await;
    the_end_of_an_init_ends_its_container(bench).await;
    a_list_tells_where_each_process_is(bench).await;
    an_exec_where_there_is_no_cgroup_is_refused(bench, offers).await;
    without_a_link_a_call_is_unavailable_at_once(bench).await;
    what_happened_without_a_link_is_told_over_the_next(bench).await;
    match offers {
        Offers::Stock => a_stock_agent_removes_nothing_as_empty(bench).await,
        Offers::Hutch | Offers::NoPlaces => {
            only_what_nothing_lives_in_is_removed_as_empty(bench).await;
            what_is_not_there_is_not_found_and_removing_it_is_already_so(bench).await;
            a_container_exists_once(bench).await;
            an_exec_needs_a_container_and_an_id_of_its_own(bench).await;
            pids_are_those_of_the_living(bench).await;
            a_frozen_container_stands_still_until_it_is_thawed(bench).await;
            a_frozen_container_can_be_killed(bench).await;
            statistics_count_the_living(bench).await;
            limits_must_be_an_object(bench).await;
            what_the_guest_lacks_is_told_with_the_answer(bench).await;
            a_signal_under_one_key_is_delivered_once(bench).await;
            a_clock_that_was_set_is_what_exits_are_dated_by(bench).await;
        }
    }
}
