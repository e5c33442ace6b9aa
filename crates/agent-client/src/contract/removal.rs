//! What every agent promises of the removal of containers.

use super::agent::{Bench, LIMIT, STAYS, exec_id, exits_with, kind, linked, words};
use runtime_core::{
    agent::{SignalTarget, StartContainer},
    error::Kind,
    ids::{ContainerNumber, ProcessId},
};
use std::time::Duration;

pub async fn only_what_nothing_lives_in_is_removed_as_empty(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(122);
    linked.run(number, &STAYS).await;
    linked.exec(number, "other", &STAYS).await;

    assert_eq!(linked.remove_empty(number).await, Ok(false));
    assert_eq!(linked.list(number).await.len(), 2);
    let killed = linked.signal(number, SignalTarget::All).await;
    killed.expect("a container can be killed");
    linked.exit_of(number, &exec_id("other")).await;
    linked.exit_of(number, &ProcessId::Init).await;

    assert_eq!(linked.remove_empty(number).await, Ok(true));
    assert_eq!(linked.list(number).await, []);
    // An answer that was lost is had again, and no exit is.
    assert_eq!(linked.remove_empty(number).await, Ok(true));
    linked.exit_of(number, &ProcessId::Init).await;
    linked.end(number).await;
}

/// Nothing that it says tells whether somebody lives there.
pub async fn a_stock_agent_removes_nothing_as_empty(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(123);
    linked.run(number, &words(&exits_with("0"))).await;
    linked.exit_of(number, &ProcessId::Init).await;

    assert_eq!(linked.remove_empty(number).await, Ok(false));
    linked.end(number).await;
}

pub async fn what_is_not_there_is_not_found_and_removing_it_is_already_so(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(107);
    let start = StartContainer {
        container,
        hooks_limit: Duration::ZERO,
    };
    let exec = linked.ask_exec(container, "x", &STAYS);

    let started = linked.port.start_container(start, LIMIT).await;
    let executed = linked.port.exec(exec, LIMIT).await;
    let signaled = linked
        .signal(container, SignalTarget::Process(ProcessId::Init))
        .await;
    let removed = linked.remove(container).await;

    assert_eq!(kind(started), Kind::NotFound);
    assert_eq!(kind(executed), Kind::NotFound);
    assert_eq!(kind(signaled), Kind::NotFound);
    assert_eq!(removed, Ok(()));
}
