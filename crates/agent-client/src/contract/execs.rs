//! What every agent promises of further processes.

use super::agent::{Bench, LIMIT, Offers, STAYS, kind, linked};
use runtime_core::{
    agent::{Exec, Program},
    error::Kind,
    ids::ContainerNumber,
};

pub async fn an_exec_needs_a_container_and_an_id_of_its_own(bench: &impl Bench) {
    let linked = linked(bench).await;
    let number = ContainerNumber(109);
    linked.create(number, &STAYS).await;

    // Its init need not have begun.
    linked.exec(number, "x", &STAYS).await;
    linked.start(number).await;
    let twice = linked.ask_exec(number, "x", &STAYS);
    let twice = linked.port.exec(twice, LIMIT).await;

    assert_eq!(kind(twice), Kind::AlreadyExists);
    linked.end(number).await;
}

/// And nothing of it is left. Its container's own is always there.
pub async fn an_exec_where_there_is_no_cgroup_is_refused(bench: &impl Bench, offers: Offers) {
    let linked = linked(bench).await;
    let number = ContainerNumber(124);
    linked.run(number, &STAYS).await;
    let ask = linked.ask_exec(number, "x", &STAYS);

    let placed = |cgroup: &str| Exec {
        program: Program {
            cgroup: cgroup.to_owned(),
            ..ask.program.clone()
        },
        ..ask.clone()
    };
    let refused = linked.port.exec(placed("none/below"), LIMIT).await;

    let expected = match offers {
        Offers::Hutch => Kind::Invalid,
        // It has no word for it, or would ignore it.
        Offers::Stock | Offers::NoPlaces => Kind::Unsupported,
    };
    assert_eq!(kind(refused), expected);
    assert_eq!(linked.list(number).await.len(), 1);
    let own = linked.port.exec(placed("."), LIMIT).await;
    own.expect("the container's own cgroup is there");
    linked.end(number).await;
}
