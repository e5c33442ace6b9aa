//! What is promised of a sandbox, said once more and in other words than its machine's: what callers
//! see of it, who is answered when and how, and what the world is asked for.
//!
//! It knows nothing of operations, records and steps of a start; whoever drives it says whether what
//! comes home belongs to what is still being done.

use std::collections::BTreeMap;

/// What is being done; nothing beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Nothing,
    /// It comes to be.
    Birth,
    /// It gets a fresh VM.
    Start,
    /// Its created containers are started.
    Begin,
    /// They are told to end.
    Quiet,
    Pause,
    /// A pause that failed is taken back.
    Undo,
    Resume,
    /// For something that must end in it while it is paused, and back.
    Rise,
    Sink,
    Release {
        tries: u32,
    },
}

/// Why it ends, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    NotMade,
    NotStarted,
    Again,
    Asked,
    Idle,
    Deleted,
    Lost,
    AgentLost,
}

impl End {
    /// What the processes that still lived are said to have ended with.
    fn told(self) -> &'static str {
        match self {
            Self::Asked | Self::Idle | Self::Deleted => "TellGuestGone 137 signaled",
            Self::NotMade | Self::NotStarted | Self::Again | Self::Lost => {
                "TellGuestGone 255 vm-lost"
            }
            Self::AgentLost => "TellGuestGone 255 agent-lost",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Making,
    Created,
    Started,
    /// It is over, and nobody reads its output any more.
    Done,
    /// Its VM was another one.
    Past,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub life: Life,
    creator: Option<u64>,
    /// Its room was opened.
    pub begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Create,
    Start,
    Stop,
    ForceStop,
    Pause,
    Resume,
    Delete,
    ForceDelete,
    Annotate,
}

impl Ask {
    /// Force or not, the same is waited for.
    fn plain(self) -> Self {
        match self {
            Self::ForceStop => Self::Stop,
            Self::ForceDelete => Self::Delete,
            other => other,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Errand {
    Kill(u64),
    Delete(u64),
}

/// How an effect came home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Well,
    /// The guest did not hear of it.
    Unheard,
    Badly,
}

type Text = String;

#[derive(Debug, Default)]
pub struct Due {
    pub answers: Vec<(u64, bool)>,
    pub world: Vec<Text>,
}

#[derive(Debug)]
pub struct Model {
    /// It is there until it is deleted.
    own: bool,
    share: bool,
    pub doing: Doing,
    /// Its VM answered once.
    up: bool,
    still: bool,
    /// Errands in the guest of a paused one.
    open: usize,
    running: bool,
    end: Option<End>,
    /// Not everything of it could be released.
    left: bool,
    pub born: bool,
    pub gone: bool,
    pub containers: BTreeMap<u32, Container>,
    numbered: u32,
    /// Containers with a lower number belong to a VM that is gone.
    pub first: u32,
    waits: Vec<(u64, Ask, Option<u8>)>,
    keys: Vec<u8>,
    errands: Vec<Errand>,
    deletions: Vec<(u64, u32)>,
    pub annotations: BTreeMap<String, String>,
    pub due: Due,
    /// Things under way belong to the present only if they were begun in it.
    pub era: u64,
}

impl Model {
    pub fn new(own: bool, share: bool) -> Self {
        Self {
            own,
            share,
            doing: Doing::Nothing,
            up: false,
            still: false,
            open: 0,
            running: false,
            end: None,
            left: false,
            born: false,
            gone: false,
            containers: BTreeMap::new(),
            numbered: 0,
            first: 0,
            waits: Vec::new(),
            keys: Vec::new(),
            errands: Vec::new(),
            deletions: Vec::new(),
            annotations: BTreeMap::new(),
            due: Due::default(),
            era: 0,
        }
    }

    pub fn seen(&self) -> &'static str {
        match self.doing {
            Doing::Birth => "creating",
            Doing::Start | Doing::Begin => "starting",
            Doing::Release { .. } if self.end == Some(End::Again) => "starting",
            Doing::Quiet | Doing::Release { .. } => "stopping",
            Doing::Pause | Doing::Undo => "pausing",
            Doing::Resume => "resuming",
            Doing::Rise | Doing::Sink => "paused",
            Doing::Nothing if !self.born => "creating",
            Doing::Nothing if self.gone => "stopped",
            Doing::Nothing if self.up && self.still => "paused",
            Doing::Nothing if self.up && self.running => "running",
            Doing::Nothing if self.up => "ready",
            Doing::Nothing => match (self.end, self.left) {
                (Some(End::NotMade | End::Deleted), _) => "stopping",
                (_, true) => "failed",
                (_, false) => "stopped",
            },
        }
    }

    fn answer(&mut self, waiter: u64, well: bool) {
        self.due.answers.push((waiter, well));
    }

    fn ask_world(&mut self, what: impl Into<Text>) {
        self.due.world.push(what.into());
    }

    fn turn(&mut self, doing: Doing) {
        self.doing = doing;
        self.era += 1;
    }

    /// Everybody who waits for this; whoever fails may ask again under the same key.
    fn settle(&mut self, ask: Ask, well: bool) {
        let (over, rest) = self.waits.iter().partition(|(_, of, _)| *of == ask);
        self.waits = rest;
        let over: Vec<(u64, Ask, Option<u8>)> = over;
        for (waiter, _, key) in over {
            if !well {
                self.keys.retain(|kept| Some(*kept) != key);
            }
            self.answer(waiter, well);
        }
    }
}

/// Why a sandbox that is seen so refuses this; the whole text.
pub fn refusal(ask: Ask, seen: &str) -> Option<Text> {
    let hint = match (ask, seen) {
        (Ask::Create, "ready" | "running")
        | (Ask::Start, "starting" | "ready" | "stopped")
        | (Ask::Stop, "ready" | "running" | "stopping" | "stopped" | "failed")
        | (Ask::Pause, "ready" | "running" | "pausing")
        | (Ask::Resume, "paused" | "resuming")
        | (Ask::Delete, "ready" | "stopped")
        | (Ask::ForceDelete, _) => return None,
        (Ask::ForceStop, "creating") | (Ask::Stop, "creating") => ": delete it with --force",
        (Ask::ForceStop, _) => return None,
        (Ask::Annotate, seen) if seen != "failed" => return None,
        (Ask::Stop, "paused") => ": resume it first, or use --force",
        (Ask::Stop, _) => ": use --force",
        (Ask::Delete, "running") => ": stop it first, or use --force",
        (Ask::Delete, _) => ": use --force",
        (Ask::Create, "paused") => ": resume it first",
        (Ask::Create | Ask::Pause, "stopped") => ": start it first",
        (Ask::Create | Ask::Start, "failed") => ": stop it first, or delete it",
        (Ask::Create | Ask::Start | Ask::Pause | Ask::Resume | Ask::Annotate, _) => "",
    };
    let tried = match ask {
        Ask::Create => "create a container in",
        Ask::Start => "start",
        Ask::Stop | Ask::ForceStop => "stop",
        Ask::Pause => "pause",
        Ask::Resume => "resume",
        Ask::Delete | Ask::ForceDelete => "delete",
        Ask::Annotate => "annotate",
    };
    Some(format!("cannot {tried} a sandbox that is {seen}{hint}"))
}

// What is asked of it.
impl Model {
    pub fn create_empty(&mut self, waiter: u64) {
        self.waits.push((waiter, Ask::Create, None));
        self.boot(Doing::Birth);
    }

    /// Of the number that is next.
    pub fn create(&mut self, waiter: u64) -> Result<(), Text> {
        let (number, begun) = (self.numbered, self.born);
        if begun {
            refusal(Ask::Create, self.seen()).map_or(Ok(()), Err)?;
            self.ask_world("StartContainer");
        } else {
            self.boot(Doing::Birth);
        }
        let container = Container {
            life: Life::Making,
            creator: Some(waiter),
            begun,
        };
        self.containers.insert(number, container);
        self.numbered += 1;
        Ok(())
    }

    fn boot(&mut self, doing: Doing) {
        self.born = true;
        if doing == Doing::Start {
            self.first = self.numbered;
            for container in self.containers.values_mut() {
                // What was never made is being undone.
                if container.life != Life::Making {
                    container.life = Life::Past;
                }
            }
            self.delete_past();
        }
        self.end = None;
        self.turn(doing);
        self.ask_world("OpenRooms");
    }

    pub fn ask(&mut self, waiter: u64, ask: Ask, key: Option<u8>) -> Result<(), Text> {
        let seen = self.seen();
        if self.gone {
            return match ask.plain() {
                Ask::Delete => {
                    self.answer(waiter, true);
                    Ok(())
                }
                _ => Err("sandbox does not exist".to_owned()),
            };
        }
        if key.is_some_and(|key| self.keys.contains(&key)) {
            self.ask_again(waiter, ask, key);
            return Ok(());
        }
        refusal(ask, seen).map_or(Ok(()), Err)?;
        if ask.plain() == Ask::Stop && seen == "stopped" {
            self.answer(waiter, true);
            return Ok(());
        }
        let making =
            |(number, one): (&u32, &Container)| (one.life == Life::Making).then_some(*number);
        if let (Ask::Pause, Some(number)) = (ask, self.containers.iter().find_map(making)) {
            return Err(format!(
                "cannot pause a sandbox while its container \"c{number}\" is being created"
            ));
        }
        self.keys.extend(key);
        if ask == Ask::Annotate {
            self.annotations.insert("a".to_owned(), waiter.to_string());
            self.answer(waiter, true);
            return Ok(());
        }
        self.waits.push((waiter, ask.plain(), key));
        let under_way = matches!(
            (ask, seen),
            (Ask::Start, "starting")
                | (Ask::Stop, "stopping")
                | (Ask::Pause, "pausing")
                | (Ask::Resume, "resuming")
        );
        if !under_way {
            self.carry_out(ask);
        }
        Ok(())
    }

    /// It is under way, or done.
    fn ask_again(&mut self, waiter: u64, ask: Ask, key: Option<u8>) {
        let awaited = match (ask.plain(), self.seen()) {
            (Ask::Annotate, _) => false,
            (Ask::Start, "starting")
            | (Ask::Pause, "pausing")
            | (Ask::Resume, "resuming")
            | (Ask::Stop, "stopping") => true,
            (Ask::Delete, "stopping") => matches!(self.end, Some(End::Deleted | End::NotMade)),
            (plain, _) => self.waits.iter().any(|(_, of, _)| *of == plain),
        };
        match awaited {
            true => self.waits.push((waiter, ask.plain(), key)),
            false => self.answer(waiter, true),
        }
    }

    fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Start if self.up => {
                self.turn(Doing::Begin);
                self.ask_world("Begin");
            }
            Ask::Start => self.boot(Doing::Start),
            Ask::Stop if self.up => {
                self.turn(Doing::Quiet);
                self.ask_world("Quiet");
            }
            Ask::Stop | Ask::ForceStop => match (self.doing, self.end) {
                // No fresh VM follows.
                (Doing::Release { .. }, Some(End::Again)) => {
                    self.settle(Ask::Start, false);
                    self.end = Some(End::Asked);
                }
                (Doing::Release { .. }, _) => {}
                (Doing::Nothing, Some(end)) if !self.up => self.release(end),
                _ => self.release(End::Asked),
            },
            Ask::Pause => {
                self.turn(Doing::Pause);
                self.ask_world("Pause");
            }
            Ask::Resume => match (self.doing, self.open) {
                (Doing::Nothing, 0) => {
                    self.turn(Doing::Resume);
                    self.ask_world("Resume");
                }
                (Doing::Nothing, _) => {
                    (self.still, self.open) = (false, 0);
                    self.settle(Ask::Resume, true);
                    self.let_all_leave();
                }
                // When it has risen or sunk.
                _ => {}
            },
            Ask::Delete | Ask::ForceDelete => self.delete_all(),
            Ask::Create | Ask::Annotate => {}
        }
    }

    fn delete_all(&mut self) {
        match (self.doing, self.end) {
            (Doing::Release { .. } | Doing::Nothing, Some(End::NotMade)) => {}
            (Doing::Release { .. }, _) => {
                self.settle(Ask::Start, false);
                self.end = Some(End::Deleted);
            }
            (Doing::Nothing, Some(_)) if !self.up && !self.left => {
                self.end = Some(End::Deleted);
                self.at_rest();
            }
            (Doing::Birth, _) => self.release(End::NotMade),
            _ => self.release(End::Deleted),
        }
    }

    /// The VM goes on for what is ended by force.
    fn errand(&mut self, errand: Errand) {
        match (self.doing, self.still, self.open) {
            (Doing::Nothing, true, 0) => {
                self.errands.push(errand);
                self.turn(Doing::Rise);
                self.ask_world("Resume");
            }
            (Doing::Pause | Doing::Undo | Doing::Resume | Doing::Rise | Doing::Sink, ..) => {
                self.errands.push(errand);
            }
            (Doing::Nothing, true, open) => {
                self.open = open + 1;
                self.run(errand);
            }
            _ => self.run(errand),
        }
    }

    fn run(&mut self, errand: Errand) {
        self.ask_world(match errand {
            Errand::Kill(_) => "Kill",
            Errand::Delete(_) => "Retire Stays",
        });
    }

    pub fn kill(&mut self, waiter: u64) {
        self.errand(Errand::Kill(waiter));
    }

    fn goes_with_last(&self) -> bool {
        !self.own && self.containers.len() == 1
    }

    pub fn delete(&mut self, waiter: u64, number: u32, force: bool) -> Result<(), Text> {
        let releasing = matches!(self.doing, Doing::Release { .. });
        let stopped = self.doing == Doing::Nothing && self.end.is_some() && !self.up;
        let empty = self.containers.is_empty();
        let Some(container) = self.containers.get(&number) else {
            match () {
                () if self.gone => self.answer(waiter, true),
                () if stopped && self.left && empty => {
                    self.deletions.push((waiter, number));
                    self.release(self.end.expect("it has ended"));
                }
                () if releasing && empty => self.deletions.push((waiter, number)),
                () => return Err("container does not exist".to_owned()),
            }
            return Ok(());
        };
        if container.life == Life::Past || number < self.first || stopped {
            self.ask_world("Retire Goes");
            return Ok(());
        }
        let last = match self.goes_with_last() {
            true => "Retire Goes",
            false => "Retire Stays",
        };
        match self.doing {
            Doing::Birth | Doing::Start if !force => {
                return Err("cannot delete container that is not stopped: creating".to_owned());
            }
            Doing::Birth | Doing::Start => {
                self.deletions.push((waiter, number));
                self.fail();
            }
            Doing::Release { .. } | Doing::Quiet => self.deletions.push((waiter, number)),
            Doing::Nothing | Doing::Begin if !self.still => self.ask_world(last),
            _ if !force => {
                let seen = self.seen();
                let hint = if seen == "paused" {
                    ": resume it first"
                } else {
                    ""
                };
                return Err(format!("cannot reach into a sandbox that is {seen}{hint}"));
            }
            _ if self.goes_with_last() => self.ask_world(last),
            _ => self.errand(Errand::Delete(waiter)),
        }
        Ok(())
    }
}

// What comes home, and what happens to it.
impl Model {
    /// A step of a birth or a start, and whether it was the last one.
    pub fn booted(&mut self, step: &str, came: Came, last: bool, next: &[&str]) {
        if came != Came::Well {
            return match (step, self.doing) {
                ("OpenRooms", Doing::Birth) => self.never_begun(),
                _ => self.fail(),
            };
        }
        let shared = |effect: &&&str| self.share || **effect != "OpenShare";
        let next: Vec<_> = next.iter().filter(shared).copied().collect();
        for effect in next {
            self.ask_world(effect);
        }
        if let Some(first) = self.containers.get_mut(&0).filter(|_| step == "plumbed") {
            first.begun |= self.doing == Doing::Birth;
        }
        if !last {
            return;
        }
        (self.up, self.still) = (true, false);
        self.running = self.doing == Doing::Start;
        self.turn(Doing::Nothing);
        let making = |one: &&Container| one.life == Life::Making;
        let here = self.containers.range(self.first..).map(|(_, one)| one);
        for _ in 0..here.filter(making).count() {
            self.ask_world("TellReady");
        }
        self.settle(Ask::Create, true);
        self.settle(Ask::Start, true);
    }

    /// A sandbox that is born for a container waits for what it brings.
    pub fn waits_for_first(&self) -> bool {
        self.doing == Doing::Birth && self.containers.values().any(|one| one.life == Life::Making)
    }

    fn never_begun(&mut self) {
        self.settle(Ask::Create, false);
        let creators: Vec<_> = self.containers.values().filter_map(|c| c.creator).collect();
        for creator in creators {
            self.answer(creator, false);
        }
        self.containers.clear();
        self.go();
    }

    fn fail(&mut self) {
        self.release(match self.doing {
            Doing::Start => End::NotStarted,
            _ => End::NotMade,
        });
    }

    pub fn begun(&mut self, came: Came) {
        let started = |one: &Container| one.life == Life::Started;
        self.running = came == Came::Well || self.containers.values().any(started);
        self.turn(Doing::Nothing);
        self.settle(Ask::Start, came == Came::Well);
    }

    pub fn quieted(&mut self) {
        self.release(End::Asked);
    }

    pub fn paused(&mut self, came: Came) {
        if came != Came::Well {
            self.turn(Doing::Undo);
            return self.ask_world("Resume");
        }
        if self.waits.iter().any(|(_, of, _)| *of == Ask::Resume) {
            self.turn(Doing::Resume);
            return self.ask_world("Resume");
        }
        self.settle(Ask::Pause, true);
        (self.still, self.open) = (true, 0);
        match self.errands.is_empty() {
            true => self.turn(Doing::Nothing),
            false => {
                self.turn(Doing::Rise);
                self.ask_world("Resume");
            }
        }
    }

    /// Badly: the VM is still paused. Unheard: it goes on, and its agent is not there.
    pub fn resumed(&mut self, came: Came) {
        let wanted = self.waits.iter().any(|(_, of, _)| *of == Ask::Resume);
        let undoes = self.doing == Doing::Undo;
        let for_errands = self.doing == Doing::Rise && !wanted;
        match came {
            Came::Well => {
                self.settle(Ask::Resume, true);
                self.settle(Ask::Pause, false);
                self.still = for_errands;
                self.open = if for_errands { self.errands.len() } else { 0 };
                self.turn(Doing::Nothing);
                for errand in std::mem::take(&mut self.errands) {
                    self.run(errand);
                }
                if !for_errands {
                    self.let_all_leave();
                }
            }
            Came::Badly if !undoes => {
                self.still = true;
                self.turn(Doing::Nothing);
                self.settle(Ask::Resume, false);
                self.drop_errands();
            }
            Came::Badly | Came::Unheard => {
                self.settle(Ask::Pause, false);
                self.settle(Ask::Resume, false);
                self.release(match came {
                    Came::Unheard => End::AgentLost,
                    _ => End::Lost,
                });
            }
        }
    }

    fn drop_errands(&mut self) {
        for errand in std::mem::take(&mut self.errands) {
            let (Errand::Kill(waiter) | Errand::Delete(waiter)) = errand;
            self.answer(waiter, false);
        }
    }

    /// A pause took the guest away from what was asked of it.
    fn is_cut_off(&self, came: Came) -> bool {
        let turning = matches!(
            self.doing,
            Doing::Pause | Doing::Undo | Doing::Resume | Doing::Rise | Doing::Sink
        );
        let lies = self.doing == Doing::Nothing && self.up && self.still && self.open == 0;
        came == Came::Unheard && (turning || lies)
    }

    pub fn killed(&mut self, waiter: u64, came: Came) {
        if self.is_cut_off(came) {
            return self.errand(Errand::Kill(waiter));
        }
        self.answer(waiter, came == Came::Well);
        self.errand_done();
    }

    fn errand_done(&mut self) {
        if self.doing == Doing::Nothing && self.still && self.open > 0 {
            self.open -= 1;
            if self.open == 0 {
                self.turn(Doing::Sink);
                self.ask_world("Pause");
            }
        }
    }

    pub fn retired(&mut self, (waiter, number, force): (u64, u32, bool), came: Came) {
        if force && self.is_cut_off(came) {
            return self.errand(Errand::Delete(waiter));
        }
        if came != Came::Well {
            self.answer(waiter, false);
            return self.errand_done();
        }
        self.remove(number);
        let empty = self.containers.is_empty();
        if !empty || self.own {
            self.answer(waiter, true);
            self.errand_done();
            if empty {
                self.at_rest();
            }
            return;
        }
        if self.gone {
            return self.answer(waiter, true);
        }
        self.deletions.push((waiter, number));
        match (self.doing, self.end) {
            (Doing::Quiet | Doing::Release { .. }, _) => {}
            (Doing::Start, _) => self.release(End::Deleted),
            _ if self.up => self.release(End::Deleted),
            (_, Some(end)) if self.left => self.release(end),
            _ => self.at_rest(),
        }
    }

    fn remove(&mut self, number: u32) {
        if let Some(container) = self.containers.remove(&number) {
            self.ask_world("Forget");
            if let Some(creator) = container.creator {
                self.answer(creator, false);
            }
        }
    }

    fn is_attended(&self) -> bool {
        self.doing == Doing::Begin || (self.doing == Doing::Nothing && self.up && !self.still)
    }

    /// It has its devices; so many of them are to be plugged.
    pub fn attached(&mut self, blocks: usize) {
        if self.is_attended() {
            self.ask_world(if blocks == 0 { "TellReady" } else { "Plug" });
        }
    }

    pub fn plugged(&mut self, number: u32, came: Came) {
        match (self.is_attended(), came) {
            (false, _) => {}
            (true, Came::Well) => self.ask_world("TellReady"),
            (true, _) => self.not_created(number),
        }
    }

    pub fn created(&mut self, number: u32) {
        if let Some(container) = self.containers.get_mut(&number) {
            container.life = Life::Created;
            if let Some(creator) = container.creator.take() {
                self.answer(creator, true);
            }
        }
    }

    pub fn not_created(&mut self, number: u32) {
        match self.doing {
            Doing::Release { .. } => {}
            Doing::Nothing if !self.up => {}
            _ if number < self.first => self.ask_world("Discard"),
            Doing::Birth | Doing::Start => self.fail(),
            Doing::Nothing if self.is_attended() && self.goes_with_last() => self.fail(),
            _ if self.is_attended() => {
                let container = self.containers.get_mut(&number);
                if let Some(creator) = container.and_then(|one| one.creator.take()) {
                    self.answer(creator, false);
                }
                self.ask_world("Discard");
            }
            _ => {}
        }
    }

    pub fn started(&mut self, number: u32) {
        if let Some(container) = self.containers.get_mut(&number)
            && container.life == Life::Created
        {
            container.life = Life::Started;
        }
        // A start of all says itself what came of it.
        self.running |= self.up && self.doing != Doing::Begin;
    }

    pub fn drained(&mut self, number: u32) {
        if let Some(container) = self.containers.get_mut(&number)
            && container.life != Life::Past
        {
            container.life = Life::Done;
            if self.is_attended() && !self.is_done() {
                self.ask_world("Leave");
            }
        }
    }

    /// What was made for its containers is stopped when they are done, whatever happened before.
    pub fn idle(&mut self) {
        let rests = self.doing == Doing::Nothing && self.up && self.open == 0;
        if rests && self.is_done() {
            self.release(End::Idle);
        }
    }

    fn let_all_leave(&mut self) {
        let done = |one: &&Container| one.life == Life::Done;
        let count = self.containers.values().filter(done).count();
        for _ in 0..if self.is_done() { 0 } else { count } {
            self.ask_world("Leave");
        }
    }

    fn is_done(&self) -> bool {
        let mut lives = self.containers.values().map(|container| container.life);
        let over = lives
            .clone()
            .all(|life| matches!(life, Life::Done | Life::Past));
        !self.own && over && lives.any(|life| life == Life::Done)
    }

    pub fn discarded(&mut self, number: u32) {
        let Some(container) = self.containers.get(&number) else {
            return;
        };
        let making = container.life == Life::Making;
        let stopped = self.doing == Doing::Nothing && self.end.is_some() && !self.up;
        let all = matches!(self.end, Some(End::NotMade | End::Deleted));
        match stopped {
            true if all || making => {
                self.remove(number);
                self.at_rest();
            }
            false if making => self.remove(number),
            _ => {}
        }
    }

    pub fn vm_lost(&mut self, booting: bool) {
        self.lost(booting, End::Lost);
    }

    fn lost(&mut self, booting: bool, end: End) {
        match self.doing {
            Doing::Birth | Doing::Start if booting => self.fail(),
            Doing::Quiet => self.release(End::Asked),
            Doing::Birth | Doing::Start | Doing::Release { .. } => {}
            _ if self.up => self.release(end),
            _ => {}
        }
    }

    /// Of a VM that is being paused, is paused or is being resumed the link is closed on purpose.
    pub fn link_lost(&mut self, booting: bool) {
        let closed = match self.doing {
            Doing::Pause | Doing::Undo | Doing::Resume | Doing::Rise | Doing::Sink => true,
            Doing::Nothing => self.up && self.still && self.open == 0,
            _ => false,
        };
        if !closed {
            self.lost(booting, End::AgentLost);
        }
    }
}

// How it ends.
impl Model {
    fn release(&mut self, end: End) {
        self.settle(Ask::Pause, false);
        self.settle(Ask::Resume, false);
        if !matches!(end, End::NotStarted | End::Again) {
            self.settle(Ask::Start, false);
        }
        self.drop_errands();
        self.ask_world(end.told());
        self.ask_world("TearDown");
        self.end = Some(end);
        self.turn(Doing::Release { tries: 0 });
    }

    pub fn released(&mut self, tries: u32, came: Came) {
        let well = came == Came::Well;
        if !well && tries < 2 {
            self.turn(Doing::Release { tries: tries + 1 });
            return self.ask_world("TearDown");
        }
        (self.up, self.left) = (false, !well);
        (self.still, self.open) = (false, 0);
        if self.end == Some(End::Again) && well {
            return self.boot(Doing::Start);
        }
        if self.end == Some(End::Again) {
            self.end = Some(End::NotStarted);
        }
        self.turn(Doing::Nothing);
        self.settle(Ask::Start, false);
        self.settle(Ask::Stop, well);
        self.at_rest();
    }

    /// What is left to do: undo what was never made, and delete.
    fn at_rest(&mut self) {
        let stopped = self.doing == Doing::Nothing && self.end.is_some() && !self.up;
        let Some(end) = self.end.filter(|_| stopped && !self.gone) else {
            return;
        };
        let unwanted = matches!(end, End::NotMade | End::Deleted);
        // Nobody began it, so nobody has to undo it.
        let unbegun = |(number, one): (&u32, &Container)| (!one.begun).then_some(*number);
        if let (End::NotMade, Some(first)) = (end, self.containers.iter().find_map(unbegun)) {
            self.remove(first);
            return self.at_rest();
        }
        if self.containers.is_empty() && (unwanted || !self.own) {
            if !self.left {
                return self.go();
            }
            for (waiter, _) in std::mem::take(&mut self.deletions) {
                self.answer(waiter, false);
            }
            self.settle(Ask::Delete, false);
            if end == End::NotMade {
                self.settle(Ask::Create, false);
            }
            self.turn(Doing::Release { tries: 2 });
            return self.ask_world("TearDown");
        }
        if !unwanted {
            self.delete_past();
        }
        let making = |one: &&Container| unwanted || one.life == Life::Making;
        for _ in 0..self.containers.values().filter(making).count() {
            self.ask_world("Discard");
        }
    }

    fn delete_past(&mut self) {
        for _ in 0..std::mem::take(&mut self.deletions).len() {
            self.ask_world("Retire Goes");
        }
    }

    fn go(&mut self) {
        self.gone = true;
        self.turn(Doing::Nothing);
        self.settle(Ask::Create, false);
        self.settle(Ask::Stop, true);
        self.settle(Ask::Delete, true);
        for (waiter, _) in std::mem::take(&mut self.deletions) {
            self.answer(waiter, true);
        }
    }

    /// The next daemon finds what is on record. Nobody waits any more; whoever wants an answer asks again.
    pub fn restart(&mut self, same_boot: bool) {
        self.waits.clear();
        self.errands.clear();
        self.deletions.clear();
        self.containers.retain(|_, container| container.begun);
        let runs = |one: &Container| one.life == Life::Started;
        self.running |= self.up && self.containers.values().any(runs);
        for container in self.containers.values_mut() {
            container.creator = None;
            if container.life == Life::Done {
                container.life = Life::Started;
            }
        }
        match (self.doing, self.end) {
            (Doing::Birth, _) => self.release(End::NotMade),
            (Doing::Start, _) => self.release(End::Again),
            (Doing::Release { .. }, Some(end)) => self.release(found(end)),
            (Doing::Nothing, Some(end)) if !self.up => self.restart_stopped(end),
            _ if !same_boot => self.release(End::Lost),
            (Doing::Nothing, _) if self.still => self.take_up(Doing::Sink, &["Pause"]),
            (Doing::Nothing, _) if !self.own && self.containers.is_empty() => {
                self.release(End::Deleted);
            }
            (Doing::Nothing, _) => self.ask_world("Adopt"),
            (Doing::Begin, _) => self.take_up(Doing::Begin, &["Adopt", "Begin"]),
            (Doing::Quiet, _) => self.take_up(Doing::Quiet, &["Adopt", "Quiet"]),
            (Doing::Pause, _) => self.take_up(Doing::Pause, &["Pause"]),
            (Doing::Rise | Doing::Sink, _) => self.take_up(Doing::Sink, &["Pause"]),
            (Doing::Resume | Doing::Undo, _) => self.take_up(Doing::Resume, &["Resume"]),
            (Doing::Release { .. }, None) => unreachable!("what is released ends for a reason"),
        }
    }

    fn take_up(&mut self, doing: Doing, world: &[&str]) {
        self.open = 0;
        self.turn(doing);
        for effect in world {
            self.ask_world(*effect);
        }
    }

    fn restart_stopped(&mut self, end: End) {
        let unwanted = matches!(end, End::NotMade | End::Deleted);
        if self.left || unwanted {
            return self.release(found(end));
        }
        let end = found(end);
        self.end = Some(end);
        self.ask_world(end.told());
        self.at_rest();
    }
}

/// Of a start that failed only that is on record.
fn found(end: End) -> End {
    match end {
        End::NotStarted => End::Lost,
        end => end,
    }
}
