//! The network's table, its stale completions, and what holds whatever happens.

use super::*;
use proptest::prelude::*;
use runtime_core::records::Change;
use std::collections::BTreeMap;

const OWN: &str = "/run/hutch/s/7/netns";
const LENT: &str = "/run/netns/cni-7";

fn uid() -> SandboxUid {
    SandboxUid::from_random(7)
}

fn own() -> NetworkSpec {
    NetworkSpec {
        uid: uid(),
        folder: "/run/hutch/s/7".into(),
        netns: None,
    }
}

fn lent() -> NetworkSpec {
    NetworkSpec {
        netns: Some(LENT.into()),
        ..own()
    }
}

fn fresh() -> Network {
    Network::new(uid(), None)
}

fn recorded() -> Network {
    let own = OWN.into();
    Network::new(uid(), Some(NetworkRecord { own }))
}

fn connect(waiter: u64, spec: NetworkSpec) -> Event {
    let waiter = Waiter(waiter);
    Event::Connect { waiter, spec }
}

fn disconnect(waiter: u64) -> Event {
    let waiter = Waiter(waiter);
    Event::Disconnect { waiter }
}

fn entered(op: u64, outcome: Result<(), Fault>) -> Event {
    let op = OpId(op);
    Event::Entered { op, outcome }
}

fn removed(op: u64, outcome: Result<(), Fault>) -> Event {
    let op = OpId(op);
    Event::Removed { op, outcome }
}

fn broken() -> Fault {
    Fault::new(Kind::Exhausted, "make network namespace: no space")
}

fn drive(network: &mut Network, event: Event) -> Batch {
    let mut batch = Batch::default();
    network.on(event, &mut batch).expect("event accepted");
    batch
}

fn after(mut network: Network, events: impl IntoIterator<Item = Event>) -> Network {
    for event in events {
        drive(&mut network, event);
    }
    network
}

fn refused(network: &Network, event: Event) -> Denied {
    let mut same = network.clone();
    let mut batch = Batch::default();
    let denied = same.on(event, &mut batch).expect_err("event denied");
    assert!(batch.is_empty());
    assert_eq!(same, *network);
    denied
}

fn ignored(network: &Network, event: Event) {
    let mut same = network.clone();
    let batch = drive(&mut same, event);
    assert!(batch.is_empty(), "{batch:?}");
    assert_eq!(same, *network);
}

fn make(op: u64) -> World {
    let path = OWN.into();
    World::Make { op: OpId(op), path }
}

fn remove(op: u64) -> World {
    let path = OWN.into();
    World::Remove { op: OpId(op), path }
}

fn connected_to(path: &str) -> Answer {
    let netns = path.into();
    Ok(Done::Connected(NetworkStatus { netns }))
}

fn put() -> Change {
    let own = OWN.into();
    records::put("network/0000000000000007", &NetworkRecord { own })
}

/// One machine in each state, by the events that lead there.
fn everywhere() -> BTreeMap<&'static str, Network> {
    let entering = after(fresh(), [connect(1, own())]);
    let connected = after(entering.clone(), [entered(1, Ok(()))]);
    let machines = [
        fresh(),
        recorded(),
        entering.clone(),
        connected.clone(),
        after(entering, [disconnect(2)]),
        after(connected, [disconnect(2)]),
    ];
    let named = machines.map(|machine| (machine.state_name(), machine));
    BTreeMap::from(named)
}

#[test]
fn a_namespace_is_recorded_before_it_is_made() {
    let mut network = fresh();

    let batch = drive(&mut network, connect(1, own()));

    assert_eq!(batch.records, [put()]);
    assert_eq!(batch.world, [make(1)]);
    assert!(batch.replies.is_empty());
}

#[test]
fn who_asks_for_the_same_gets_the_same_answer_and_nothing_is_made_twice() {
    let mut network = after(fresh(), [connect(1, own())]);

    let joined = drive(&mut network, connect(2, own()));
    let made = drive(&mut network, entered(1, Ok(())));
    let later = drive(&mut network, connect(3, own()));

    assert!(joined.is_empty());
    let answers = [1, 2].map(|waiter| (Waiter(waiter), connected_to(OWN)));
    assert_eq!(made.replies, answers);
    assert_eq!(later.replies, [(Waiter(3), connected_to(OWN))]);
    assert!(later.world.is_empty() && later.records.is_empty());
}

#[test]
fn a_namespace_on_record_is_asked_of_the_kernel_anew_and_not_recorded_again() {
    let mut network = recorded();

    let batch = drive(&mut network, connect(1, own()));

    assert!(batch.records.is_empty());
    assert_eq!(batch.world, [make(1)]);
}

#[test]
fn the_record_goes_after_the_namespace_and_before_the_answer() {
    let mut network = after(
        fresh(),
        [connect(1, own()), entered(1, Ok(())), connect(2, own())],
    );

    let asked = drive(&mut network, disconnect(3));
    let gone = drive(&mut network, removed(2, Ok(())));

    assert_eq!(asked.world, [remove(2)]);
    assert!(asked.records.is_empty() && asked.replies.is_empty());
    assert_eq!(gone.records, [records::delete("network/0000000000000007")]);
    assert_eq!(gone.replies, [(Waiter(3), Ok(Done::Disconnected))]);
    assert_eq!(network.state(), &State::Closed);
}

#[test]
fn disconnecting_while_connecting_waits_for_it_and_tells_who_asked() {
    for outcome in [Ok(()), Err(broken())] {
        let mut network = after(fresh(), [connect(1, own())]);

        let asked = drive(&mut network, disconnect(2));
        let over = drive(&mut network, entered(1, outcome));

        assert!(asked.world.is_empty() && asked.records.is_empty());
        let [(Waiter(1), Err(why))] = &asked.replies[..] else {
            panic!("{asked:?}");
        };
        assert_eq!(why.kind(), Kind::Aborted);
        assert_eq!(over.world, [remove(2)]);
        assert!(over.replies.is_empty());
    }
}

#[test]
fn a_namespace_that_could_not_be_made_stays_on_record_until_it_is_taken_away() {
    let mut network = after(fresh(), [connect(1, own())]);

    let failed = drive(&mut network, entered(1, Err(broken())));

    assert_eq!(failed.replies, [(Waiter(1), Err(broken()))]);
    assert!(failed.records.is_empty());
    let mut again = network.clone();
    assert_eq!(drive(&mut again, connect(2, own())).world, [make(2)]);
    assert_eq!(drive(&mut network, disconnect(2)).world, [remove(2)]);
}

#[test]
fn a_namespace_that_could_not_be_taken_away_stays_on_record_and_is_tried_again() {
    let mut network = after(recorded(), [disconnect(1), disconnect(2)]);

    let failed = drive(&mut network, removed(1, Err(broken())));

    let answers = [1, 2].map(|waiter| (Waiter(waiter), Err(broken())));
    assert_eq!(failed.replies, answers);
    assert!(failed.records.is_empty());
    assert_eq!(drive(&mut network, disconnect(3)).world, [remove(2)]);
}

#[test]
fn a_namespace_of_the_callers_is_looked_at_and_leaves_no_trace() {
    let mut network = fresh();

    let asked = drive(&mut network, connect(1, lent()));
    let seen = drive(&mut network, entered(1, Ok(())));
    let left = drive(&mut network, disconnect(2));

    let (op, path) = (OpId(1), LENT.into());
    assert_eq!(asked.world, [World::Check { op, path }]);
    assert_eq!(seen.replies, [(Waiter(1), connected_to(LENT))]);
    assert_eq!(left.replies, [(Waiter(2), Ok(Done::Disconnected))]);
    for batch in [asked, seen, left] {
        assert!(batch.records.is_empty());
    }
    assert_eq!(network.state(), &State::Closed);
}

#[test]
fn a_path_of_the_callers_that_is_no_namespace_leaves_the_room_as_it_was() {
    let network = after(fresh(), [connect(1, lent()), entered(1, Err(broken()))]);

    assert_eq!(network.state(), &State::Closed);
}

#[test]
fn leaving_a_namespace_of_the_callers_waits_for_the_look_and_takes_nothing_away() {
    let mut network = after(fresh(), [connect(1, lent()), disconnect(2), disconnect(3)]);

    let over = drive(&mut network, entered(1, Ok(())));

    let answers = [2, 3].map(|waiter| (Waiter(waiter), Ok(Done::Disconnected)));
    assert_eq!(over.replies, answers);
    assert!(over.world.is_empty() && over.records.is_empty());
    assert_eq!(network.state(), &State::Closed);
}

#[test]
fn a_room_has_one_home_at_a_time() {
    for (name, network) in everywhere() {
        let wanted = match name {
            "closed" => continue,
            "leaving" | "removing" => Denied::Leaving,
            _ => Denied::OtherHome { home: OWN.into() },
        };

        assert_eq!(refused(&network, connect(9, lent())), wanted, "{name}");
    }
}

#[test]
fn the_spec_of_another_sandbox_is_refused_everywhere() {
    let asked = SandboxUid::from_random(8);
    let spec = NetworkSpec {
        uid: asked,
        ..own()
    };

    for network in everywhere().into_values() {
        let denied = refused(&network, connect(9, spec.clone()));

        assert_eq!(denied, Denied::OtherSandbox { asked });
    }
}

#[test]
fn disconnecting_a_room_that_has_nothing_is_already_so() {
    let mut network = fresh();

    let batch = drive(&mut network, disconnect(1));

    assert_eq!(batch.replies, [(Waiter(1), Ok(Done::Disconnected))]);
    assert!(batch.records.is_empty() && batch.world.is_empty());
    assert_eq!(network, fresh());
}

#[test]
fn who_waits_is_bounded() {
    let waiting = everywhere().into_iter().filter(|(name, _)| {
        let waits = ["entering", "leaving", "removing"];
        waits.contains(name)
    });
    for (name, mut network) in waiting {
        let ask = |waiter| match name {
            "entering" => connect(waiter, own()),
            _ => disconnect(waiter),
        };
        for waiter in 1..WAITERS_MAX as u64 {
            drive(&mut network, ask(waiter + 10));
        }

        let max = WAITERS_MAX;
        assert_eq!(refused(&network, ask(99)), Denied::Crowded { max });
    }
}

#[test]
fn a_completion_of_another_operation_changes_nothing_in_any_state() {
    for network in everywhere().into_values() {
        for outcome in [Ok(()), Err(broken())] {
            for op in [0, 77] {
                ignored(&network, entered(op, outcome.clone()));
                ignored(&network, removed(op, outcome.clone()));
            }
        }
    }
}

#[test]
fn a_completion_of_the_wrong_kind_changes_nothing() {
    let entering = after(fresh(), [connect(1, own())]);
    let removing = after(recorded(), [disconnect(1)]);

    ignored(&entering, removed(1, Ok(())));
    ignored(&removing, entered(1, Ok(())));
}

#[test]
fn a_stale_make_cannot_revive_what_was_taken_away() {
    let network = after(
        fresh(),
        [
            connect(1, own()),
            disconnect(2),
            entered(1, Ok(())),
            removed(2, Ok(())),
        ],
    );

    ignored(&network, entered(1, Ok(())));
}

#[derive(Debug, Clone)]
enum Step {
    Connect { lent: bool },
    Disconnect,
    Complete { ok: bool },
    Stale { op: u64, ok: bool },
    Rebuild,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(|lent| Step::Connect { lent }),
        2 => Just(Step::Disconnect),
        4 => any::<bool>().prop_map(|ok| Step::Complete { ok }),
        1 => (0..50u64, any::<bool>()).prop_map(|(op, ok)| Step::Stale { op, ok }),
        1 => Just(Step::Rebuild),
    ]
}

/// What lies outside a room, as far as it knows it: the store, the kernel, and who waits.
#[derive(Debug, Default)]
struct Around {
    record: Option<Vec<u8>>,
    /// Ours, at [`OWN`].
    there: bool,
    outstanding: Option<World>,
    waiting: Vec<Waiter>,
    issued: u64,
}

impl Around {
    fn ask(&mut self, network: &mut Network, event: impl FnOnce(Waiter) -> Event) {
        self.issued += 1;
        let waiter = Waiter(self.issued);
        self.waiting.push(waiter);
        let before = network.clone();
        let mut batch = Batch::default();
        match network.on(event(waiter), &mut batch) {
            Ok(()) => self.follow(batch),
            Err(_) => {
                assert!(batch.is_empty());
                assert_eq!(*network, before);
                self.waiting.pop();
            }
        }
    }

    /// Performs a batch in the order that rooms keep.
    fn follow(&mut self, batch: Batch) {
        for change in batch.records {
            match change {
                Change::Put { value, .. } => self.record = Some(value),
                Change::Delete { .. } => {
                    assert!(!self.there, "the record outlives the namespace");
                    self.record = None;
                }
            }
        }
        for effect in batch.world {
            assert!(self.outstanding.is_none(), "one operation at a time");
            match &effect {
                World::Make { path, .. } | World::Remove { path, .. } => {
                    assert_eq!(path.to_str(), Some(OWN));
                    assert!(self.record.is_some(), "on record before it is touched");
                }
                World::Check { path, .. } => assert_eq!(path.to_str(), Some(LENT)),
            }
            self.outstanding = Some(effect);
        }
        for (waiter, answer) in batch.replies {
            let place = self.waiting.iter().position(|waits| *waits == waiter);
            self.waiting.remove(place.expect("answered once"));
            if answer == connected_to(OWN) {
                assert!(self.there, "connected to what is there");
            }
            if answer == Ok(Done::Disconnected) {
                assert!(!self.there && self.record.is_none());
            }
        }
    }

    /// The outstanding operation ends; one that fails may have been done half way, or whole.
    fn complete(&mut self, network: &mut Network, ok: bool) {
        let outcome = if ok { Ok(()) } else { Err(broken()) };
        let event = match self.outstanding.take() {
            None => return,
            Some(World::Make { op, .. }) => {
                self.there |= ok || self.issued.is_multiple_of(2);
                Event::Entered { op, outcome }
            }
            Some(World::Check { op, .. }) => Event::Entered { op, outcome },
            Some(World::Remove { op, .. }) => {
                self.there &= !ok && self.issued.is_multiple_of(2);
                Event::Removed { op, outcome }
            }
        };
        let mut batch = Batch::default();
        network.on(event, &mut batch).expect("no command");
        self.follow(batch);
    }

    /// The room panicked: what was begun ends unheard, and who waited is told by the room's end.
    fn rebuild(&mut self) -> Network {
        if let Some(World::Make { .. }) = self.outstanding.take() {
            self.there = true;
        }
        self.waiting.clear();
        let record = self.record.as_deref().map(|bytes| {
            let record = records::decode(bytes);
            record.expect("it was written by this version")
        });
        Network::new(uid(), record)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_nothing_is_there_without_a_record_and_each_command_is_answered_once(
        steps in proptest::collection::vec(any_step(), 1..80)
    ) {
        let mut around = Around::default();
        let mut network = fresh();
        for step in steps {
            match step {
                Step::Connect { lent: wants } => {
                    let spec = if wants { lent() } else { own() };
                    around.ask(&mut network, |waiter| Event::Connect { waiter, spec });
                }
                Step::Disconnect => {
                    around.ask(&mut network, |waiter| Event::Disconnect { waiter });
                }
                Step::Complete { ok } => around.complete(&mut network, ok),
                Step::Stale { op, ok } => {
                    let named = around.outstanding.as_ref().map(|effect| match effect {
                        World::Make { op, .. }
                        | World::Check { op, .. }
                        | World::Remove { op, .. } => op.0,
                    });
                    if named != Some(op) {
                        let outcome = if ok { Ok(()) } else { Err(broken()) };
                        ignored(&network, entered(op, outcome.clone()));
                        ignored(&network, removed(op, outcome));
                    }
                }
                Step::Rebuild => network = around.rebuild(),
            }
            prop_assert!(around.record.is_some() || !around.there);
        }

        around.ask(&mut network, |waiter| Event::Disconnect { waiter });
        while around.outstanding.is_some() {
            around.complete(&mut network, true);
        }
        around.ask(&mut network, |waiter| Event::Disconnect { waiter });
        while around.outstanding.is_some() {
            around.complete(&mut network, true);
        }
        prop_assert_eq!(network.state(), &State::Closed);
        prop_assert!(around.waiting.is_empty());
        prop_assert!(!around.there && around.record.is_none());
    }
}
