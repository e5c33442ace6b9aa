//! What is promised of a container, said once more and in other words than its machine's: what callers
//! see of it, who is answered with what, what its sandbox hears, and what the world is asked for.
//!
//! It knows nothing of operations and records; whoever drives it says whether what comes home belongs to
//! what is still being done.

mod ending;

use std::collections::BTreeMap;

/// Callers that may wait for one answer.
const CALLERS_MAX: usize = 64;

/// As it is told, but for standing still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Creating,
    Created,
    Running,
    Stopped(u32),
}

/// What its creation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    Devices,
    Guest,
    Hooks,
    Init,
    Nothing,
}

/// How far its deletion came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    No,
    Processes { guest_goes: bool },
    Guest,
    Poststop,
    Gone,
}

/// What it has in the guest and of its VM after it has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongings {
    There,
    /// They go once nobody reads of its execs any more.
    Due,
    Leaving,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Still {
    No,
    Asked {
        waiters: Vec<u64>,
        /// It was sent SIGKILL meanwhile.
        doomed: bool,
    },
    Yes,
    Leaving {
        waiters: Vec<u64>,
        was: Was,
    },
}

/// What is told of one that is being thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    Still,
    /// It failed to be.
    Never,
    /// It was sent SIGKILL.
    Doomed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Pause,
    Resume,
}

/// How an effect came home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Well,
    /// It may succeed later.
    Badly,
    /// It never will.
    Refused,
}

impl Came {
    pub fn text(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Badly => "it is broken",
            Self::Refused => "it is refused",
        }
    }

    /// Of what changes nothing when it fails.
    fn warning(self) -> String {
        match self {
            Self::Well => String::new(),
            Self::Badly | Self::Refused => format!(", warned: {}", self.text()),
        }
    }
}

/// A process as it is on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Making,
    Made,
    /// And nobody needs its stream any more.
    Read,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stream {
    NotYet(Vec<u64>),
    There,
    Read,
}

#[derive(Debug, Clone)]
struct Process {
    key: Option<u8>,
    stream: Stream,
}

#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    pub create: bool,
    pub poststart: bool,
    pub poststop: bool,
}

#[derive(Debug, Default)]
pub struct Due {
    pub answers: Vec<(u64, String)>,
    pub world: Vec<String>,
    pub said: Vec<String>,
}

/// What was asked of the world belongs to the present only if its line has not been turned since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turns {
    pub creation: u64,
    pub freezer: u64,
    pub poststart: u64,
    pub ending: u64,
}

#[derive(Debug)]
pub struct Model {
    hooks: Hooks,
    pub told: Told,
    pub awaits: Awaits,
    /// Its creation failed, or its deletion did.
    pub broken: bool,
    pub ending: Ending,
    pub belongings: Belongings,
    pub still: Still,
    pub ooms: Vec<(u64, u64)>,
    /// Told by the guest while others had just been put on record.
    pub(super) fresh_ooms: Vec<u64>,
    pub(super) oom_rests: bool,
    pub due: Due,
    pub turns: Turns,
    deleters: Vec<u64>,
    /// A daemon before this one told that it had stopped, and its init may live.
    left: bool,
    asked: Option<(u8, Wish)>,
    processes: BTreeMap<String, Process>,
    /// A hook was begun before there was anything to tell.
    hooked: bool,
    /// poststart is not done, whoever runs it.
    poststart_due: bool,
    poststarting: bool,
    /// Of this daemon's: what whoever asks for the start hears of it.
    poststart_failed: String,
    starters: Vec<u64>,
    oom_waiters: Vec<(u64, u64)>,
}

// What it is, and small words.
impl Model {
    /// It comes to be.
    pub fn new(hooks: Hooks) -> Self {
        let mut model = Self {
            hooks,
            told: Told::Creating,
            awaits: Awaits::Devices,
            broken: false,
            ending: Ending::No,
            belongings: Belongings::There,
            still: Still::No,
            ooms: Vec::new(),
            fresh_ooms: Vec::new(),
            oom_rests: false,
            due: Due::default(),
            turns: Turns::default(),
            deleters: Vec::new(),
            left: false,
            asked: None,
            processes: BTreeMap::new(),
            hooked: false,
            poststart_due: false,
            poststarting: false,
            poststart_failed: String::new(),
            starters: Vec::new(),
            oom_waiters: Vec::new(),
        };
        model.ask_world("Attach");
        model
    }

    pub fn gone(&self) -> bool {
        self.ending == Ending::Gone
    }

    fn lives(&self) -> bool {
        let begun = matches!(self.told, Told::Created | Told::Running);
        begun && !self.broken && self.ending == Ending::No
    }

    /// No more can come of it.
    fn over(&self) -> bool {
        self.broken || self.ending != Ending::No || matches!(self.told, Told::Stopped(_))
    }

    fn stands_still(&self) -> bool {
        matches!(
            self.still,
            Still::Yes
                | Still::Leaving {
                    was: Was::Still,
                    ..
                }
        )
    }

    pub fn seen(&self) -> &'static str {
        match self.told {
            Told::Created | Told::Running if self.stands_still() => "paused",
            Told::Creating => "creating",
            Told::Created => "created",
            Told::Running => "running",
            Told::Stopped(_) => "stopped",
        }
    }

    /// What a refusal calls it.
    fn word(&self) -> &'static str {
        match (self.ending, self.broken, self.told) {
            (Ending::Gone, _, _) => "deleted",
            (Ending::Processes { .. } | Ending::Guest | Ending::Poststop, _, _) => "deleting",
            (Ending::No, true, _) => "failed",
            (Ending::No, false, Told::Creating) => "creating",
            (Ending::No, false, Told::Created) => "created",
            (Ending::No, false, Told::Running) => "running",
            (Ending::No, false, Told::Stopped(_)) => "stopped",
        }
    }

    fn answer(&mut self, waiter: u64, what: impl Into<String>) {
        self.due.answers.push((waiter, what.into()));
    }

    fn ask_world(&mut self, what: impl Into<String>) {
        self.due.world.push(what.into());
    }

    fn say(&mut self, what: impl Into<String>) {
        self.due.said.push(what.into());
    }
}

// How it comes to be, and its processes.
impl Model {
    fn fail(&mut self, why: &str) {
        self.broken = true;
        self.awaits = Awaits::Nothing;
        self.turns.creation += 1;
        self.drop_ooms();
        self.say(format!("Failed {why}"));
    }

    pub fn attached(&mut self, came: Came, blocks: usize) {
        match came {
            Came::Well => {
                self.awaits = Awaits::Guest;
                self.say(format!("Attached {blocks}"));
            }
            Came::Badly | Came::Refused => self.fail(came.text()),
        }
    }

    pub fn guest_ready(&mut self) {
        if self.awaits != Awaits::Guest || self.ending != Ending::No {
            return;
        }
        if !self.hooks.create {
            return self.make_init();
        }
        (self.awaits, self.hooked) = (Awaits::Hooks, true);
        self.ask_world("RunHooks Create");
    }

    fn make_init(&mut self) {
        self.awaits = Awaits::Init;
        self.make("init", None, Vec::new());
    }

    fn make(&mut self, name: &str, key: Option<u8>, waiters: Vec<u64>) {
        let stream = Stream::NotYet(waiters);
        self.processes
            .insert(name.to_owned(), Process { key, stream });
        self.ask_world(format!("MakeProcess {name}"));
    }

    pub fn create_hooks_ran(&mut self, came: Came) {
        match came {
            Came::Well => self.make_init(),
            Came::Badly | Came::Refused => self.fail(came.text()),
        }
    }

    pub fn made(&mut self, name: &str) {
        let mut waiting = Vec::new();
        if let Some(process) = self.processes.get_mut(name)
            && let Stream::NotYet(waiters) = std::mem::replace(&mut process.stream, Stream::There)
        {
            waiting = waiters;
        }
        for waiter in waiting {
            self.answer(waiter, "exec ok");
        }
        let awaited = self.awaits == Awaits::Init && !self.broken && self.ending == Ending::No;
        if name == "init" && awaited {
            (self.awaits, self.told) = (Awaits::Nothing, Told::Created);
            self.say("Created");
        }
    }

    pub fn not_made(&mut self, name: &str, why: &str) {
        self.forget(name, why);
        if name == "init" && self.awaits == Awaits::Init && self.ending == Ending::No {
            self.fail(why);
        }
        self.go_on_ending();
    }

    fn forget(&mut self, name: &str, why: &str) {
        if let Some(process) = self.processes.remove(name)
            && let Stream::NotYet(waiters) = process.stream
        {
            for waiter in waiters {
                self.answer(waiter, format!("exec {why}"));
            }
        }
        self.ask_world(format!("Forget {name}"));
    }

    pub fn began(&mut self) {
        if self.told != Told::Created || !self.lives() {
            return;
        }
        self.told = Told::Running;
        if self.hooks.poststart {
            self.run_poststart();
        }
        self.say("Started");
    }

    fn run_poststart(&mut self) {
        (self.poststart_due, self.poststarting) = (true, true);
        self.turns.poststart += 1;
        self.ask_world("RunHooks Poststart");
    }

    pub fn poststart_ran(&mut self, came: Came) {
        (self.poststart_due, self.poststarting) = (false, false);
        self.poststart_failed = came.warning();
        self.tell_starters();
    }

    fn tell_starters(&mut self) {
        let answer = format!("started{}", self.poststart_failed);
        for waiter in std::mem::take(&mut self.starters) {
            self.answer(waiter, answer.clone());
        }
    }

    /// The first exit stands.
    pub fn exited(&mut self, name: &str, code: u32, seq: Option<u64>) {
        self.left &= name != "init";
        if name == "init" && self.lives() {
            self.told = Told::Stopped(code);
            self.thaw_for_good();
            self.number_ooms();
            self.say(format!("Stopped {code}"));
            self.tell_ooms();
        }
        if let Some(seq) = seq {
            self.say(format!("ExitRecorded {seq}"));
        }
    }

    pub fn disbelieved(&mut self, seq: u64) {
        self.say(format!("ExitRecorded {seq}"));
    }

    pub fn drained(&mut self, name: &str) {
        if name != "init" {
            if let Some(process) = self.processes.get_mut(name) {
                process.stream = Stream::Read;
            }
        } else if self.word() == "stopped" {
            self.say("Drained");
        }
    }

    pub fn guest_told_exit(&mut self, name: &str, seq: u64) {
        match self.processes.contains_key(name) {
            true => self.ask_world(format!("TellExit {name} {seq}")),
            false => self.say(format!("ExitRecorded {seq}")),
        }
    }

    pub fn guest_gone(&mut self, why: &str) {
        match (self.ending, self.awaits) {
            (Ending::Poststop | Ending::Gone, _) => {}
            (Ending::Guest, _) => self.finish(),
            (Ending::No, Awaits::Devices | Awaits::Guest | Awaits::Hooks) => self.fail(why),
            (Ending::No | Ending::Processes { .. }, _) => self.ask_world("TellGuestGone"),
        }
    }
}

// What is asked of it.
impl Model {
    pub fn settle(&mut self, waiter: u64) {
        self.answer(waiter, "settled");
    }

    pub fn settle_start(&mut self, waiter: u64) {
        match self.poststarting {
            true => self.starters.push(waiter),
            false => self.answer(waiter, format!("started{}", self.poststart_failed)),
        }
    }

    pub fn exec(&mut self, waiter: u64, name: &str, key: Option<u8>) -> Result<(), String> {
        if let Some(process) = self.processes.get_mut(name) {
            if key.is_none() || process.key != key {
                return Err(format!("exec with id \"{name}\" already exists"));
            }
            match &mut process.stream {
                Stream::NotYet(waiters) if waiters.len() == CALLERS_MAX => {
                    return Err("the same exec was asked for 64 times already".to_owned());
                }
                Stream::NotYet(waiters) => waiters.push(waiter),
                Stream::There => self.answer(waiter, "exec ok"),
                Stream::Read => {
                    self.answer(waiter, "exec it has exited, and its output was read");
                }
            }
            return Ok(());
        }
        let state = match self.lives() {
            true if self.still == Still::No => {
                self.make(name, key, vec![waiter]);
                return Ok(());
            }
            true => "paused",
            false => self.word(),
        };
        Err(format!("cannot exec in a container in the {state} state"))
    }

    pub fn update(&mut self, _: u64) -> Result<(), String> {
        match (self.lives(), self.word()) {
            (true, _) => self.ask_world("Update"),
            (false, "stopped") => return Err("container not running".to_owned()),
            (false, word) => {
                return Err(format!("cannot update a container in the {word} state"));
            }
        }
        Ok(())
    }

    pub fn updated(&mut self, waiter: u64, came: Came) {
        self.answer(waiter, format!("updated {}", came.text()));
    }

    pub fn oom(&mut self, seq: u64) {
        let known = self.ooms.last().is_some_and(|(_, known)| *known >= seq);
        if known || self.over() {
            return self.say(format!("ExitRecorded {seq}"));
        }
        if self.fresh_ooms.last().is_none_or(|last| *last < seq) {
            self.fresh_ooms.push(seq);
        }
        if !self.oom_rests {
            self.put_down_ooms();
        }
    }

    pub fn oom_rested(&mut self) {
        self.oom_rests = false;
        if !self.fresh_ooms.is_empty() {
            self.put_down_ooms();
        }
    }

    fn put_down_ooms(&mut self) {
        self.number_ooms();
        self.tell_ooms();
        self.oom_rests = true;
        self.ask_world("RestOoms");
    }

    fn number_ooms(&mut self) {
        for seq in std::mem::take(&mut self.fresh_ooms) {
            let number = self.ooms.last().map_or(1, |(number, _)| number + 1);
            self.ooms.push((number, seq));
            self.say(format!("ExitRecorded {seq}"));
        }
    }

    fn drop_ooms(&mut self) {
        for seq in std::mem::take(&mut self.fresh_ooms) {
            self.say(format!("ExitRecorded {seq}"));
        }
    }

    pub fn next_ooms(&mut self, waiter: u64, after: u64) {
        self.oom_waiters.push((waiter, after));
        self.tell_ooms();
    }

    pub fn oom_wait_over(&mut self, waiter: u64) {
        let waits = |(of, _): &(u64, u64)| *of == waiter;
        if let Some(place) = self.oom_waiters.iter().position(waits) {
            let (waiter, after) = self.oom_waiters.remove(place);
            let found = self.ooms_above(after);
            self.answer(waiter, self.ooms_text(&found));
        }
    }

    fn ooms_above(&self, after: u64) -> Vec<u64> {
        let numbers = self.ooms.iter().map(|(number, _)| *number);
        numbers.filter(|number| *number > after).collect()
    }

    fn ooms_text(&self, found: &[u64]) -> String {
        format!("ooms {found:?} over: {}", self.over())
    }

    fn tell_ooms(&mut self) {
        for (waiter, after) in std::mem::take(&mut self.oom_waiters) {
            let found = self.ooms_above(after);
            match found.is_empty() && !self.over() {
                true => self.oom_waiters.push((waiter, after)),
                false => self.answer(waiter, self.ooms_text(&found)),
            }
        }
    }

    pub fn freeze(&mut self, waiter: u64, key: Option<u8>, wish: Wish) -> Result<(), String> {
        let again = key.is_some_and(|key| self.asked == Some((key, wish)));
        match (&mut self.still, wish) {
            (Still::Asked { waiters, .. }, Wish::Pause)
            | (
                Still::Leaving {
                    waiters,
                    was: Was::Still | Was::Never,
                },
                Wish::Resume,
            ) if waiters.len() < CALLERS_MAX => {
                waiters.push(waiter);
                return Ok(());
            }
            (Still::Leaving { waiters, .. }, Wish::Resume)
                if again && waiters.len() < CALLERS_MAX =>
            {
                waiters.push(waiter);
                return Ok(());
            }
            (Still::Yes, Wish::Pause) | (Still::No, Wish::Resume) if again => {
                self.answer(waiter, "done ok");
                return Ok(());
            }
            _ => {}
        }
        match (&self.still, wish) {
            (Still::No, Wish::Pause) if self.lives() => {
                self.still = Still::Asked {
                    waiters: vec![waiter],
                    doomed: false,
                };
                self.ask_world("Freeze");
            }
            (Still::Yes, Wish::Resume) => {
                let (waiters, was) = (vec![waiter], Was::Still);
                self.still = Still::Leaving { waiters, was };
                self.ask_world("Thaw");
            }
            (_, Wish::Resume) => return Err("container not paused".to_owned()),
            (_, Wish::Pause) if self.seen() == "paused" => {
                return Err("container is already paused".to_owned());
            }
            (_, Wish::Pause) => return Err("container not running or created".to_owned()),
        }
        self.asked = key.map(|key| (key, wish));
        self.turns.freezer += 1;
        Ok(())
    }

    pub fn frozen(&mut self, came: Came) {
        let Still::Asked { waiters, doomed } = std::mem::replace(&mut self.still, Still::Yes)
        else {
            unreachable!("whoever drives it knows that it is being frozen");
        };
        self.turns.freezer += 1;
        let was = match (doomed, came) {
            (true, _) => Some(Was::Doomed),
            (false, Came::Well) => None,
            (false, Came::Badly | Came::Refused) => Some(Was::Never),
        };
        if let Some(was) = was {
            let waiters = Vec::new();
            self.still = Still::Leaving { waiters, was };
            self.ask_world("Thaw");
        }
        for waiter in waiters {
            self.answer(waiter, format!("done {}", came.text()));
        }
    }

    pub fn thawed(&mut self, came: Came) {
        let Still::Leaving { waiters, was } = std::mem::replace(&mut self.still, Still::No) else {
            unreachable!("whoever drives it knows that it is being thawed");
        };
        self.turns.freezer += 1;
        match came {
            Came::Well => {}
            Came::Refused if was == Was::Still => self.still = Still::Yes,
            Came::Refused => {}
            Came::Badly => {
                let waiters = Vec::new();
                self.still = Still::Leaving { waiters, was };
                self.ask_world("Thaw later");
            }
        }
        for waiter in waiters {
            self.answer(waiter, format!("done {}", came.text()));
        }
    }

    /// What is to end does not stand still.
    pub fn doomed(&mut self) {
        if !self.lives() {
            return;
        }
        match &mut self.still {
            Still::No => {}
            Still::Asked { doomed, .. } => *doomed = true,
            Still::Leaving { was, .. } => *was = Was::Doomed,
            Still::Yes => {
                let (waiters, was) = (Vec::new(), Was::Doomed);
                self.still = Still::Leaving { waiters, was };
                self.turns.freezer += 1;
                self.ask_world("Thaw");
            }
        }
    }

    /// What has ended does not stand still.
    fn thaw_for_good(&mut self) {
        self.turns.freezer += 1;
        match std::mem::replace(&mut self.still, Still::No) {
            Still::No | Still::Yes => {}
            Still::Asked { waiters, .. } | Still::Leaving { waiters, .. } => {
                for waiter in waiters {
                    self.answer(waiter, "done container not running");
                }
            }
        }
    }
}
