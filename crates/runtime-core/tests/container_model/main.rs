//! Random lives of a container: whatever is asked of it and befalls it, it is seen, answers, says and asks of
//! the world what the [`model`] says, each refusal in its own words; its exit is one and the same for
//! ever; and in the end it can be deleted, with nothing left on record.

#![allow(clippy::unwrap_used)] // Tests may.

mod model;
mod plays;
mod words;

use model::{Came, Found, Hooks, Model, Still, Told, Turns, Was, Wish};
use plays::{Play, Plays};
use proptest::{prelude::*, sample::Index};
use runtime_core::{
    agent::Program,
    container::{
        Container, ContainerRecord, ContainerState, Event, Exec, Force, Freeze, FreezerRecord,
        Guest, Notice, Stage, World,
    },
    ids::{EpochMs, ExecId, ProcessId},
    kit::{Batch, Machine, Waiter},
    process::{self, ProcessRecord},
    records::{Change, decode},
};
use std::{collections::BTreeSet, sync::Arc};
use words::{asked, attached, done, heard, hooked, refusal, request_key, said, spec, status, uid};

/// What somebody does, or what happens.
#[derive(Debug, Clone)]
enum Step {
    GuestReady,
    Exec(u8, Option<u8>),
    Freeze(Option<u8>, Wish),
    Update,
    Settle,
    SettleStart,
    NextOoms(u64),
    OomWaitOver(Index),
    Delete {
        force: bool,
        guest_goes: bool,
    },
    /// One of the effects that are under way comes home.
    Home(Index, Came),
    /// A process does what is next for it, and its container hears of it.
    Moves(Index, Came),
    /// So it does; but the daemon is killed before its container hears of it.
    Dies(Index, Came),
    Begins,
    /// It was sent SIGKILL.
    Doomed,
    Drains(Index),
    /// The guest tells of an exit.
    Exits(Index, u32),
    Oom(u64),
    GuestGone,
    /// Its sandbox goes on without it.
    Leave,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop_oneof![Just(None), (0_u8..2).prop_map(Some)];
    let came =
        || prop_oneof![8 => Just(Came::Well), 1 => Just(Came::Badly), 1 => Just(Came::Refused)];
    let wish = prop_oneof![Just(Wish::Pause), Just(Wish::Resume)];
    let index = any::<Index>;
    let step = prop_oneof![
        6 => Just(Step::GuestReady),
        8 => (0_u8..2, key()).prop_map(|(name, key)| Step::Exec(name, key)),
        8 => (key(), wish).prop_map(|(key, wish)| Step::Freeze(key, wish)),
        2 => Just(Step::Doomed),
        2 => Just(Step::Update),
        1 => Just(Step::Settle),
        2 => Just(Step::SettleStart),
        2 => (0_u64..4).prop_map(Step::NextOoms),
        1 => index().prop_map(Step::OomWaitOver),
        4 => any::<(bool, bool)>()
            .prop_map(|(force, guest_goes)| Step::Delete { force, guest_goes }),
        24 => (index(), came()).prop_map(|(which, came)| Step::Home(which, came)),
        24 => (index(), came()).prop_map(|(which, came)| Step::Moves(which, came)),
        1 => (index(), came()).prop_map(|(which, came)| Step::Dies(which, came)),
        5 => Just(Step::Begins),
        5 => index().prop_map(Step::Drains),
        6 => (index(), 0_u32..3).prop_map(|(which, code)| Step::Exits(which, code)),
        2 => (1_u64..6).prop_map(Step::Oom),
        1 => Just(Step::GuestGone),
        5 => Just(Step::Leave),
        2 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..90)
}

struct Story {
    container: Container,
    model: Model,
    /// As the store has it.
    record: Option<ContainerRecord>,
    /// Records of processes that were closed, in this order.
    closed: Vec<String>,
    plays: Plays,
    under_way: Vec<(World, Turns)>,
    log: Vec<String>,
    /// Who was not answered yet.
    waiting: BTreeSet<u64>,
    waiters: u64,
    /// How it is said to have ended.
    ended: Option<u32>,
}

impl Story {
    fn new(hooks: Hooks) -> Self {
        let spec = Arc::new(spec(hooks));
        // Its sandbox has put it on record.
        let Change::Put { value, .. } = Container::taken_in(uid(), spec.clone()) else {
            panic!("a container that comes to be is put on record");
        };
        let mut story = Self {
            container: Container::new(uid(), spec),
            model: Model::new(hooks),
            record: Some(decode(&value).unwrap()),
            closed: Vec::new(),
            plays: Plays::default(),
            under_way: Vec::new(),
            log: Vec::new(),
            waiting: BTreeSet::new(),
            waiters: 0,
            ended: None,
        };
        story.hears(Event::Create, Ok(()));
        story
    }

    /// What the model says of it was said before.
    fn hears(&mut self, event: Event, refused: Result<(), String>) {
        let told = format!("{event:?}");
        self.log.push(told.clone());
        let (before, mut batch) = (self.container.clone(), Batch::default());
        let denied = self.container.on(event, &mut batch).map_err(refusal);
        assert_eq!(denied, refused, "{told}: {:#?}", self.log);
        if denied.is_err() {
            assert_eq!(
                self.container, before,
                "{told}: denied, and something changed"
            );
            assert!(batch.is_empty(), "{told}: denied, and something happens");
        }
        let own = ContainerRecord::key(uid(), self.container.number());
        let mut ended = Vec::new();
        for change in std::mem::take(&mut batch.records) {
            match change {
                Change::Put { key, value } => {
                    assert_eq!(key, own, "{told}");
                    self.record = Some(decode(&value).unwrap());
                }
                Change::Delete { key } if key == own => self.record = None,
                Change::Delete { key } => ended.push(key),
            }
        }
        if self.record.is_none() || !ended.is_empty() {
            let due = std::mem::take(&mut self.closed);
            assert_eq!(ended, due, "{told}: records of its processes end");
        }
        self.check_due(&told, &batch);
        self.check_record(&told);
        for effect in batch.world {
            self.begins(effect);
        }
    }

    fn check_due(&mut self, told: &str, batch: &Batch<Container>) {
        let due = std::mem::take(&mut self.model.due);
        let replies = batch.replies.iter();
        let mut answers: Vec<_> = replies
            .map(|(waiter, answer)| (waiter.0, heard(answer.clone())))
            .collect();
        let mut due_answers = due.answers;
        answers.sort();
        due_answers.sort();
        assert_eq!(
            answers, due_answers,
            "{told}: who is answered: {:#?}",
            self.log
        );
        for (waiter, _) in answers {
            assert!(self.waiting.remove(&waiter), "{waiter} is answered twice");
        }
        let mut world: Vec<_> = batch.world.iter().map(asked).collect();
        let mut due_world = due.world;
        world.sort();
        due_world.sort();
        assert_eq!(world, due_world, "{told}: what is asked: {:#?}", self.log);
        let notices: Vec<_> = batch.announce.iter().map(said).collect();
        assert_eq!(notices, due.said, "{told}: what is said: {:#?}", self.log);
        let stops = batch.announce.iter();
        let stops = stops.filter(|notice| matches!(notice, Notice::Stopped { .. }));
        for _ in stops {
            assert_eq!(self.ended, None, "{told}: its end is said twice");
            self.ended = match self.model.told {
                Told::Stopped(code) => Some(code),
                other => panic!("{told}: it is said to have stopped, and is {other:?}"),
            };
        }
    }

    /// What is told is on record, and nothing is once it is gone.
    fn check_record(&self, told: &str) {
        let state = self.container.oci_state();
        assert_eq!(state.name(), self.model.seen(), "{told}: {:#?}", self.log);
        let due = match self.model.told {
            Told::Stopped(code) => Some(code),
            Told::Creating | Told::Created | Told::Running => None,
        };
        let code = |state: &ContainerState| match state {
            ContainerState::Stopped(status) => Some(status.code),
            _ => None,
        };
        assert_eq!(code(&state), due, "{told}: {:#?}", self.log);
        let Some(record) = &self.record else {
            return assert!(self.model.gone(), "{told}: it is on no record");
        };
        assert!(!self.model.gone(), "{told}: it is gone, and on record");
        let beneath = match self.model.told {
            Told::Creating => "creating",
            Told::Created => "created",
            Told::Running => "running",
            Told::Stopped(_) => "stopped",
        };
        assert_eq!(record.state.name(), beneath, "{told}: {:#?}", self.log);
        assert_eq!(code(&record.state), due, "{told}: {:#?}", self.log);
        let numbers = record.ooms.iter().map(|oom| (oom.number, oom.seq));
        assert_eq!(numbers.collect::<Vec<_>>(), self.model.ooms, "{told}");
        let freezer = match &self.model.still {
            Still::No => FreezerRecord::Thawed,
            Still::Asked { .. } => FreezerRecord::Freezing,
            Still::Yes => FreezerRecord::Frozen,
            Still::Leaving {
                was: Was::Still, ..
            } => FreezerRecord::Thawing,
            Still::Leaving {
                was: Was::Never | Was::Doomed,
                ..
            } => FreezerRecord::Undoing,
        };
        assert_eq!(record.freezer, freezer, "{told}: {:#?}", self.log);
    }

    fn begins(&mut self, effect: World) {
        match effect {
            World::MakeProcess { process, make } => self.plays.make(process, make.key),
            World::TellExit {
                process,
                seq,
                status,
            } => self.plays.tell(&process, Play::Exit(status, seq)),
            World::TellGuestGone { status } => self.plays.tell_all(&Play::GuestGone(status)),
            World::CloseProcesses { .. } => self.plays.tell_all(&Play::Close),
            World::CloseProcess { process } => self.plays.tell(&process, Play::Close),
            World::Forget { process } => self.plays.forget(&process),
            World::StopHooks => {}
            effect @ (World::Attach { .. }
            | World::RunHooks { .. }
            | World::Freeze { .. }
            | World::Thaw { .. }
            | World::Update { .. }
            | World::KillLeft { .. }
            | World::RestOoms
            | World::Remove { .. }
            | World::Leave { .. }) => self.under_way.push((effect, self.model.turns)),
        }
    }

    /// Somebody asks; whoever is refused waits no more.
    fn asks(
        &mut self,
        model: impl FnOnce(&mut Model, u64) -> Result<(), String>,
        event: impl FnOnce(Waiter) -> Event,
    ) {
        self.waiters += 1;
        let waiter = self.waiters;
        let refused = model(&mut self.model, waiter);
        if refused.is_ok() {
            self.waiting.insert(waiter);
        }
        self.hears(event(Waiter(waiter)), refused);
    }

    fn exec(&mut self, name: u8, key: Option<u8>) {
        let id = format!("e{name}");
        let exec = Exec {
            key: key.map(request_key),
            exec: ExecId::new(id.as_str()).unwrap(),
            program: Program::default(),
            relay: None,
        };
        self.asks(
            |model, waiter| model.exec(waiter, &id, key),
            |waiter| Event::Exec { waiter, exec },
        );
    }

    fn freeze(&mut self, key: Option<u8>, wish: Wish) {
        self.asks(
            |model, waiter| model.freeze(waiter, key, wish),
            |waiter| Event::Freeze {
                waiter,
                key: key.map(request_key),
                wish: match wish {
                    Wish::Pause => Freeze::Pause,
                    Wish::Resume => Freeze::Resume,
                },
            },
        );
    }

    fn delete(&mut self, force: bool, guest_goes: bool) {
        self.asks(
            |model, waiter| model.delete(waiter, force, guest_goes),
            |waiter| Event::Retire {
                waiter,
                force: if force { Force::Yes } else { Force::No },
                guest: if guest_goes {
                    Guest::Goes
                } else {
                    Guest::Stays
                },
                at: EpochMs(2),
            },
        );
    }

    /// What was begun before something else came of it changes nothing.
    fn comes_home(&mut self, which: usize, came: Came) {
        let (effect, begun) = self.under_way.remove(which);
        let now = self.model.turns;
        let event = match effect {
            World::Attach { op } => {
                if begun.creation == now.creation {
                    self.model.attached(came, attached().blocks.len());
                }
                let outcome = done(came).map(|()| attached());
                Event::Attached { op, outcome }
            }
            World::RunHooks { op, stage } => {
                match stage {
                    Stage::Create if begun.creation == now.creation => {
                        self.model.create_hooks_ran(came);
                    }
                    Stage::Poststart if begun.poststart == now.poststart => {
                        self.model.poststart_ran(came);
                    }
                    // Nobody ends it a second time.
                    Stage::Poststop if begun.ending == now.ending => self.model.retire(came),
                    Stage::Create | Stage::Poststart | Stage::Poststop => {}
                }
                let outcome = hooked(stage, came);
                Event::Hooked { op, outcome }
            }
            World::Freeze { op } => {
                if begun.freezer == now.freezer {
                    self.model.frozen(came);
                }
                let outcome = done(came);
                Event::Frozen { op, outcome }
            }
            World::Thaw { op, .. } => {
                if begun.freezer == now.freezer {
                    self.model.thawed(came);
                }
                let outcome = done(came);
                Event::Thawed { op, outcome }
            }
            World::Remove { op } => {
                if begun.ending == now.ending {
                    self.model.removed(came);
                }
                let outcome = done(came);
                Event::Removed { op, outcome }
            }
            World::Leave { op } => {
                self.model.departed(came);
                let outcome = match came {
                    Came::Refused => Ok(false),
                    Came::Well | Came::Badly => done(came).map(|()| true),
                };
                Event::Departed { op, outcome }
            }
            World::RestOoms => {
                self.model.oom_rested();
                Event::OomRested
            }
            World::KillLeft { .. } => {
                self.model.left_killed(came);
                let outcome = done(came);
                Event::LeftKilled { outcome }
            }
            World::Update { waiter, .. } => {
                self.model.updated(waiter.0, came);
                let outcome = done(came).map(|()| Vec::new());
                Event::Updated { waiter, outcome }
            }
            other => panic!("nothing comes home of {other:?}"),
        };
        self.hears(event, Ok(()));
    }

    /// A process tells of itself.
    fn tells(&mut self, process: ProcessId, notice: process::Notice) {
        let name = process.to_string();
        match &notice {
            process::Notice::Made(_) => self.model.made(&name),
            process::Notice::Failed { why } => self.model.not_made(&name, &why.to_string()),
            process::Notice::Began if process == ProcessId::Init => self.model.began(),
            process::Notice::Doomed => self.model.doomed(),
            process::Notice::Began | process::Notice::Relay { .. } => {}
            process::Notice::Exited { status, seq } => {
                self.model.exited(&name, status.code, *seq);
            }
            process::Notice::Disbelieved { seq } => self.model.disbelieved(*seq),
            process::Notice::Drained => self.model.drained(&name),
            process::Notice::Closed => {
                if self.container.state_name() == "deleting" {
                    let number = self.container.number();
                    self.closed
                        .push(ProcessRecord::key(uid(), number, &process));
                }
                self.model.closed(&name);
            }
        }
        self.model.leave_if_over();
        self.hears(Event::News { process, notice }, Ok(()));
    }

    fn moves(&mut self, pick: impl FnOnce(usize) -> usize, came: Came) {
        if let Some((process, notices)) = self.plays.moves(pick, done(came)) {
            for notice in notices {
                self.tells(process.clone(), notice);
            }
        }
    }

    /// The store alone outlives a daemon.
    fn restart(&mut self) {
        let Some(record) = self.record.clone() else {
            return;
        };
        self.log.push("restart".to_owned());
        self.under_way.clear();
        self.waiting.clear();
        self.closed.clear();
        let processes = self.plays.restart(uid());
        self.container = Container::rebuilt(record, &processes);
        let found = processes.iter().map(|one| {
            let key = one.begun_by.as_ref();
            let key = key.map(|key| key.as_str()[1..].parse().unwrap());
            let found = match (&one.state, &one.lease) {
                (process::ProcessState::Making, _) => Found::Making,
                (_, Some(_)) => Found::Made,
                (_, None) => Found::Read,
            };
            (one.process.to_string(), key, found)
        });
        let init_lives = processes.iter().any(|one| {
            let lives = !matches!(
                one.state,
                process::ProcessState::Making | process::ProcessState::Exited(_)
            );
            one.process == ProcessId::Init && lives
        });
        self.model.restart(found.collect(), init_lives);
        self.hears(Event::Resume, Ok(()));
        for (process, notices) in self.plays.resumed() {
            for notice in notices {
                self.tells(process.clone(), notice);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::GuestReady => {
                self.model.guest_ready();
                self.hears(Event::GuestReady, Ok(()));
            }
            Step::Exec(name, key) => self.exec(name, key),
            Step::Freeze(key, wish) => self.freeze(key, wish),
            Step::Update => self.asks(Model::update, |waiter| Event::Update {
                waiter,
                resources: Vec::new(),
            }),
            Step::Settle => self.answers(Model::settle, |waiter| Event::Settle { waiter }),
            Step::SettleStart => {
                self.answers(Model::settle_start, |waiter| Event::SettleStart { waiter });
            }
            Step::NextOoms(after) => self.answers(
                |model, waiter| model.next_ooms(waiter, after),
                |waiter| Event::NextOoms { waiter, after },
            ),
            Step::OomWaitOver(which) => {
                let waiter = which.index(usize::try_from(self.waiters + 1).unwrap()) as u64;
                self.model.oom_wait_over(waiter);
                let waiter = Waiter(waiter);
                self.hears(Event::OomWaitOver { waiter }, Ok(()));
            }
            Step::Delete { force, guest_goes } => self.delete(force, guest_goes),
            Step::Home(which, came) => {
                if !self.under_way.is_empty() {
                    self.comes_home(which.index(self.under_way.len()), came);
                }
            }
            Step::Moves(which, came) => self.moves(|count| which.index(count), came),
            Step::Dies(which, came) => {
                self.plays.moves(|count| which.index(count), done(came));
                self.restart();
            }
            other => self.befalls(other),
        }
    }

    fn answers(
        &mut self,
        model: impl FnOnce(&mut Model, u64),
        event: impl FnOnce(Waiter) -> Event,
    ) {
        let never_refused = |of: &mut Model, waiter| {
            model(of, waiter);
            Ok(())
        };
        self.asks(never_refused, event);
    }

    fn befalls(&mut self, step: Step) {
        match step {
            // Its room asks whether it stands still first.
            Step::Begins if self.container.may_start().is_ok() => {
                if self.plays.begin() {
                    self.tells(ProcessId::Init, process::Notice::Began);
                }
            }
            Step::Begins => {}
            Step::Doomed => self.tells(ProcessId::Init, process::Notice::Doomed),
            Step::Drains(which) => {
                if let Some(process) = self.plays.drain(which) {
                    self.tells(process, process::Notice::Drained);
                }
            }
            Step::Exits(which, code) => {
                let process = match which.index(4) {
                    0 | 1 => ProcessId::Init,
                    number => ProcessId::Exec(ExecId::new(format!("e{}", number - 2)).unwrap()),
                };
                let seq = u64::try_from(self.log.len()).unwrap();
                self.model.guest_told_exit(&process.to_string(), seq);
                let status = status(code);
                let event = Event::GuestExited {
                    seq,
                    process,
                    status,
                };
                self.hears(event, Ok(()));
            }
            Step::Oom(seq) => {
                self.model.oom(seq);
                let at = EpochMs(4);
                self.hears(Event::GuestOomKilled { seq, at }, Ok(()));
            }
            Step::GuestGone => {
                let status = status(255);
                self.model.guest_gone(&status.detail);
                self.hears(Event::GuestGone { status }, Ok(()));
            }
            Step::Leave => {
                self.model.leave();
                self.hears(Event::Leave, Ok(()));
            }
            Step::Restart => self.restart(),
            other => unreachable!("somebody does it: {other:?}"),
        }
    }

    /// Everything that is under way comes home well.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            match (self.under_way.is_empty(), self.plays.is_idle()) {
                (false, _) => self.comes_home(0, Came::Well),
                (true, false) => self.moves(|_| 0, Came::Well),
                (true, true) => return,
            }
        }
        panic!(
            "it never comes to rest: {:?}: {:#?}",
            self.container, self.log
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_container_does_what_is_promised_of_one(
        hooks in any::<(bool, bool, bool)>(),
        begun in any::<bool>(),
        steps in steps(),
    ) {
        let (create, poststart, poststop) = hooks;
        let mut story = Story::new(Hooks { create, poststart, poststop });
        if begun {
            story.settle();
            story.step(Step::GuestReady);
            story.settle();
            story.step(Step::Begins);
        }
        for step in steps {
            story.step(step);
        }
        // Faults stop: it comes to rest, and can be deleted.
        story.settle();
        story.delete(true, false);
        story.settle();

        prop_assert!(story.model.gone());
        prop_assert_eq!(&story.record, &None);
        prop_assert!(story.plays.restart(uid()).is_empty(), "a process is left on record");
        let unanswered = &story.waiting;
        prop_assert!(unanswered.is_empty(), "unanswered: {unanswered:?}: {:#?}", story.log);
    }
}

#[test]
fn an_exit_that_is_heard_of_while_its_container_is_deleted_changes_nothing_that_was_told() {
    let hooks = Hooks {
        create: false,
        poststart: false,
        poststop: false,
    };
    let mut story = Story::new(hooks);
    story.settle();
    story.step(Step::GuestReady);
    story.settle();
    story.step(Step::Begins);
    let (process, status) = (ProcessId::Init, status(3));
    story.model.guest_told_exit("init", 1);
    let exited = Event::GuestExited {
        seq: 1,
        process,
        status,
    };
    story.hears(exited, Ok(()));

    story.delete(true, false);
    story.moves(|_| 0, Came::Well);

    assert_eq!(story.model.told, Told::Stopped(137));
    assert_eq!(story.ended, Some(137));
    story.settle();
    assert!(story.model.gone());
}
