//! The table against its invariants.

use super::*;
use crate::exits::{Entry, Reason};

const ENDED: Ended = Ended {
    code: 7,
    reason: Reason::Exited,
    at_ms: 1,
};

fn name(container: &str, exec: &str) -> Name {
    Name::parse(container.to_owned(), exec.to_owned()).unwrap()
}

fn running() -> Table {
    let mut table = Table::default();
    let init = name("web", "");
    table.reserve(&init, Host::Ours).unwrap();
    assert_eq!(table.made(&init, 10), None);
    table.started(&init.container);
    table
}

fn seqs(table: &Table) -> Vec<(u64, String)> {
    let entries = table.exits().after(0);
    let exits = entries.filter_map(|entry| match entry {
        Entry::Exit(exit) => Some((exit.seq, exit.name.exec_id().to_owned())),
        Entry::Kill(_) => None,
    });
    exits.collect()
}

#[test]
fn a_name_is_taken_once_and_free_again_when_making_failed() {
    let mut table = Table::default();
    let init = name("web", "");
    table.reserve(&init, Host::Ours).unwrap();
    let before = table.clone();

    assert_eq!(table.reserve(&init, Host::Ours), Err(Denied::Exists));
    assert_eq!(table, before);

    table.undone(&init);
    assert_eq!(table, Table::default());
    assert_eq!(table.reserve(&init, Host::Ours), Ok(()));
}

#[test]
fn an_exec_needs_an_init_that_is_there() {
    let mut table = Table::default();
    let (init, exec) = (name("web", ""), name("web", "e"));

    assert_eq!(table.reserve(&exec, Host::Ours), Err(Denied::NotFound));
    table.reserve(&init, Host::Ours).unwrap();
    assert_eq!(table.reserve(&exec, Host::Ours), Err(Denied::NotRunning));
    table.made(&init, 10);
    assert_eq!(table.reserve(&exec, Host::Ours), Ok(()));
}

#[test]
fn a_process_that_ends_before_its_maker_knows_it_is_not_lost() {
    let mut table = running();
    let exec = name("web", "e");
    table.reserve(&exec, Host::Ours).unwrap();

    assert_eq!(table.reaped(11, ENDED), None);
    assert_eq!(table.reaped(99, ENDED), None);

    assert_eq!(table.made(&exec, 11), Some(ENDED));
    assert_eq!(
        table.state(&exec),
        Ok(State::Exited {
            pid: 11,
            ended: ENDED
        })
    );
    assert_eq!(seqs(&table), [(1, "e".to_owned())]);
    assert!(table.early.is_empty(), "the orphan is forgotten");
}

#[test]
fn an_orphan_is_nobodys() {
    let mut table = running();
    let before = table.clone();

    assert_eq!(table.reaped(99, ENDED), None);

    assert_eq!(table, before);
}

#[test]
fn starting_what_has_ended_does_not_revive_it() {
    let mut table = Table::default();
    let init = name("web", "");
    table.reserve(&init, Host::Ours).unwrap();
    table.made(&init, 10);
    assert_eq!(table.reaped(10, ENDED), Some(init.clone()));

    table.started(&init.container);

    assert_eq!(
        table.state(&init),
        Ok(State::Exited {
            pid: 10,
            ended: ENDED
        })
    );
}

#[test]
fn an_exit_outlives_its_container_until_the_host_has_it() {
    let mut table = running();
    table.reaped(10, ENDED);

    table.removed(&name("web", "").container);

    assert_eq!(table.all().count(), 0);
    assert_eq!(seqs(&table), [(1, String::new())]);
    table.acknowledge(1);
    assert_eq!(seqs(&table), []);
}

#[test]
fn an_exec_is_forgotten_with_its_exit_and_the_init_is_not() {
    let mut table = running();
    let exec = name("web", "e");
    table.reserve(&exec, Host::Ours).unwrap();
    table.made(&exec, 11);
    table.reaped(11, ENDED);
    table.reaped(10, ENDED);

    assert_eq!(table.acknowledge(2), std::slice::from_ref(&exec));

    assert_eq!(table.state(&exec), Err(Denied::NotFound));
    assert!(table.state(&name("web", "")).is_ok());
}

#[test]
fn an_exec_id_given_anew_is_not_forgotten_with_the_old_exit() {
    let mut table = running();
    let exec = name("web", "e");
    table.reserve(&exec, Host::Ours).unwrap();
    table.made(&exec, 11);
    table.reaped(11, ENDED);
    table.forget(&exec);
    table.reserve(&exec, Host::Ours).unwrap();
    table.made(&exec, 12);

    assert_eq!(table.acknowledge(1), []);

    assert_eq!(table.state(&exec), Ok(State::Running { pid: 12 }));
}

#[test]
fn a_stock_host_finds_the_exit_in_its_process_and_not_among_ours() {
    let mut table = Table::default();
    let init = name("web", "");
    table.reserve(&init, Host::Stock).unwrap();
    table.made(&init, 10);

    table.reaped(10, ENDED);

    assert_eq!(seqs(&table), []);
    assert_eq!(
        table.state(&init),
        Ok(State::Exited {
            pid: 10,
            ended: ENDED
        })
    );
}

#[test]
fn exits_that_nobody_acknowledges_keep_new_processes_out() {
    let mut table = running();
    for n in 1..PROCESSES_MAX {
        let exec = name("web", &format!("e{n}"));
        table.reserve(&exec, Host::Ours).unwrap();
        let pid = u32::try_from(n).unwrap() + 100;
        table.made(&exec, pid);
        table.reaped(pid, ENDED);
    }
    let exec = name("web", "more");

    assert_eq!(table.reserve(&exec, Host::Ours), Err(Denied::Exhausted));
    table.acknowledge(1);
    assert_eq!(table.reserve(&exec, Host::Ours), Ok(()));
}

#[test]
fn a_container_is_not_removed_while_something_of_it_is_made() {
    let mut table = running();
    let exec = name("web", "e");
    let web = exec.container.clone();
    table.reserve(&exec, Host::Ours).unwrap();

    assert_eq!(table.removable(&web), Err(Denied::Making));
    assert!(!table.all_exited(&web));
    table.undone(&exec);
    assert_eq!(table.removable(&web), Ok(()));
    assert_eq!(
        table.removable(&name("other", "").container),
        Err(Denied::NotFound)
    );
}

#[test]
fn names_that_begin_alike_are_kept_apart() {
    let mut table = running();
    table.reserve(&name("web2", ""), Host::Ours).unwrap();
    table.reserve(&name("we", ""), Host::Ours).unwrap();

    assert_eq!(table.of(&name("web", "").container).count(), 1);
    table.removed(&name("web", "").container);
    assert_eq!(table.all().count(), 2);
}

#[test]
fn a_kill_for_want_of_memory_is_kept_for_our_host_only() {
    let mut table = running();
    let stock = name("stock", "");
    table.reserve(&stock, Host::Stock).unwrap();
    table.made(&stock, 20);

    table.killed(&name("web", "").container, 2, 5);
    table.killed(&stock.container, 1, 5);
    table.killed(&name("gone", "").container, 1, 5);

    let kills: Vec<_> = table.exits().after(0).cloned().collect();
    assert_eq!(kills.len(), 2);
    assert!(
        kills
            .iter()
            .all(|entry| matches!(entry, Entry::Kill(kill) if kill.container.as_str() == "web"))
    );
    assert_eq!(table.exits().count(), 0, "they take no place of an exit");
}
