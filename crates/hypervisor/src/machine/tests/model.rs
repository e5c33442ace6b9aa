//! A model that the machine is held against.

use super::*;

/// What the machine is held against: a host on which VMMs live and die, and what a caller may
/// expect. It knows nothing of the machine's states.
#[derive(Default)]
struct Model {
    /// A spawn is outstanding.
    spawning: Option<OpId>,
    /// A VMM lives.
    lives: bool,
    watch: Option<OpId>,
    /// Everything outstanding, as it will come home.
    pending: Vec<World>,
    waiting: BTreeSet<Waiter>,
    leased: BTreeSet<u32>,
    waiters_issued: u64,
    exits_told: u32,
    vms: u32,
}

#[derive(Debug, Clone)]
enum Step {
    Launch,
    Lease,
    Return(u32),
    Attach(bool),
    Detach(bool),
    Turn(bool),
    Stop,
    /// Something outstanding comes home: which, and whether well.
    Home(usize, bool),
    /// The VMM dies by itself.
    Dies,
    /// The daemon dies and comes back.
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let home = (
        any::<u16>().prop_map(usize::from),
        prop::bool::weighted(0.85),
    );
    let step = prop_oneof![
        2 => Just(Step::Launch),
        3 => Just(Step::Lease),
        2 => (1..5u32).prop_map(Step::Return),
        1 => any::<bool>().prop_map(Step::Attach),
        1 => any::<bool>().prop_map(Step::Detach),
        2 => any::<bool>().prop_map(Step::Turn),
        1 => Just(Step::Stop),
        10 => home.prop_map(|(which, well)| Step::Home(which, well)),
        1 => Just(Step::Dies),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 1..120)
}

impl Model {
    fn ask(&mut self, machine: &mut Hypervisor, command: Command) {
        self.waiters_issued += 1;
        let waiter = Waiter(self.waiters_issued);
        let before = machine.clone();
        let mut batch = Batch::default();
        match machine.on(Event::Asked { waiter, command }, &mut batch) {
            Ok(()) => {
                self.waiting.insert(waiter);
                self.take(machine, batch);
            }
            Err(_) => {
                assert!(batch.is_empty());
                assert_eq!(*machine, before);
            }
        }
    }

    fn event(&mut self, machine: &mut Hypervisor, event: Event) {
        let mut batch = Batch::default();
        machine
            .on(event, &mut batch)
            .expect("only commands are denied");
        self.take(machine, batch);
    }

    fn take(&mut self, machine: &Hypervisor, batch: Batch) {
        for effect in batch.world {
            match &effect {
                World::Spawn { op, .. } => {
                    assert!(!self.lives, "a VMM that lives is never started again");
                    assert_eq!(self.spawning, None, "one at a time");
                    self.spawning = Some(*op);
                    self.leased.clear();
                }
                World::Watch { op } => self.watch = Some(*op),
                World::Forget => {
                    assert!(!self.lives && self.spawning.is_none(), "only what is gone");
                    continue;
                }
                _ => {}
            }
            self.pending.push(effect);
        }
        for (waiter, answer) in batch.replies {
            assert!(self.waiting.remove(&waiter), "each is answered once");
            if let Answer::Leased(lease) = answer {
                assert!(self.leased.insert(lease.number), "nobody else has it");
            }
        }
        for notice in batch.announce {
            if let Notice::Exited(_) = notice {
                assert!(!self.lives, "told after it is gone");
                self.exits_told += 1;
            }
        }
        let may_live = self.lives || self.spawning.is_some();
        let on_record = matches!(
            machine.record().map(|record| record.phase),
            Some(Phase::MayLive(_))
        );
        assert!(!may_live || on_record, "what may live is on record");
    }

    /// One outstanding thing comes home.
    fn home(&mut self, machine: &mut Hypervisor, which: usize, well: bool) {
        if self.pending.is_empty() {
            return;
        }
        let effect = self.pending.remove(which % self.pending.len());
        let outcome = if well { Ok(()) } else { Err(failure()) };
        let event = match effect {
            World::Spawn { op, .. } => {
                self.spawning = None;
                self.lives = well;
                self.vms += u32::from(well);
                let outcome = outcome.map(|()| PROCESS);
                Event::Spawned { op, outcome }
            }
            World::Find { op, .. } => {
                let outcome = outcome.map(|()| self.lives.then_some(PROCESS));
                Event::Found { op, outcome }
            }
            World::Connect { op } => {
                let outcome = if self.lives { outcome } else { Err(failure()) };
                Event::Answered { op, outcome }
            }
            World::Watch { op } if self.lives => {
                // Not yet.
                return self.pending.push(World::Watch { op });
            }
            World::Watch { op } => {
                let exit = exit(ExitHow::Unknown);
                Event::Ended { op, exit }
            }
            World::Kill { op } => {
                self.lives = self.lives && !well;
                Event::Killed { op, outcome }
            }
            World::AddStream { op, .. } => Event::StreamAdded { op, outcome },
            World::AttachBlock { op, .. } => Event::BlockAttached { op, outcome },
            World::DetachBlock { op, .. } => Event::BlockDetached { op, outcome },
            World::Turn { op, .. } => Event::Turned { op, outcome },
            World::Wait { op, .. } => Event::RetryDue { op },
            World::Forget => return,
        };
        self.event(machine, event);
    }

    fn step(&mut self, machine: &mut Hypervisor, step: &Step) {
        let serial = |which: bool| if which { "a" } else { "b" }.to_owned();
        match step {
            Step::Launch => self.ask(machine, launch()),
            Step::Lease => self.ask(machine, Command::LeaseStream),
            Step::Return(number) => {
                let number = *number;
                // Callers return what they have.
                if self.leased.remove(&number) {
                    self.ask(machine, Command::ReturnStream { number });
                }
            }
            Step::Attach(which) => self.ask(machine, Command::AttachBlock(block(&serial(*which)))),
            Step::Detach(which) => {
                let serial = serial(*which);
                self.ask(machine, Command::DetachBlock { serial });
            }
            Step::Turn(pauses) => {
                let turn = if *pauses { Turn::Pause } else { Turn::Resume };
                self.ask(machine, Command::Turn(turn));
            }
            Step::Stop => self.ask(machine, Command::Stop),
            Step::Home(which, well) => self.home(machine, *which, *well),
            Step::Dies => self.lives = false,
            Step::Rebuild => self.rebuild(machine),
        }
    }

    /// A spawn that was under way happens or does not; every other operation is nobody's now.
    fn rebuild(&mut self, machine: &mut Hypervisor) {
        if self.spawning.take().is_some() {
            self.lives = self.pending.len().is_multiple_of(2);
            self.vms += u32::from(self.lives);
        }
        self.pending.clear();
        self.waiting.clear();
        let uid = SandboxUid::from_random(1);
        *machine = match machine.record() {
            None => Hypervisor::new(uid, "boot".into()),
            Some(record) => Hypervisor::rebuilt(uid, "boot".into(), record, self.leased.clone()),
        };
        self.event(machine, Event::Adopt);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_vmm_is_lost_or_doubled_and_everybody_is_answered(steps in steps()) {
        let mut machine = machine();
        let mut model = Model::default();

        for step in &steps {
            model.step(&mut machine, step);
        }
        // Faults stop: what is outstanding comes home, and a last stop clears everything.
        let settle = |model: &mut Model, machine: &mut Hypervisor| {
            for _ in 0..400 {
                // The oldest first.
                model.home(machine, 0, true);
            }
        };
        settle(&mut model, &mut machine);
        model.ask(&mut machine, Command::Stop);
        settle(&mut model, &mut machine);

        prop_assert!(model.waiting.is_empty(), "unanswered: {:?} in {machine:?}", model.waiting);
        prop_assert!(!model.lives, "left behind: {machine:?}");
        prop_assert_eq!(machine.record(), None);
        prop_assert_eq!(machine.state(), &State::Idle);
    }
}
