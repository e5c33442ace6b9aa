//! The order of effects: persist, then world, then reply, then announce.
//!
//! A shell holds a machine, what the store has confirmed of it, and the events that arrived while
//! a record was being written. It decides nothing and performs nothing itself.

use crate::records::Change;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    rc::Rc,
};
use tokio::sync::oneshot;

/// Events that may wait for one record. Admission bounds commands far below it (64 permits per
/// sandbox), and each operation has one completion; reaching it means that we are wrong.
pub const LINE_MAX: usize = 4096;

/// A pure machine. `on` has no clock, no randomness, no I/O, no channel, no log.
pub trait Machine: Clone + fmt::Debug + PartialEq + Sized + 'static {
    type Event: fmt::Debug + Send + 'static;
    type World: fmt::Debug + 'static;
    type Notice: fmt::Debug + 'static;
    /// What a command is answered with, now or later.
    type Answer: fmt::Debug + Send + 'static;
    type Denied: fmt::Debug;

    /// Applies one event and fills `batch` with what it asks for.
    ///
    /// # Errors
    /// A denied event leaves machine and batch untouched.
    fn on(&mut self, event: Self::Event, batch: &mut Batch<Self>) -> Result<(), Self::Denied>;

    /// The answer for a command that was denied.
    fn refuse(denied: Self::Denied) -> Self::Answer;

    /// One word for logs: where the machine is.
    fn state_name(&self) -> &'static str;
}

/// Names who waits for an answer. Machines keep it; shells know the channel behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter(pub u64);

/// What one event asks for, in the order in which it happens.
#[derive(Debug)]
pub struct Batch<M: Machine> {
    /// Confirmed by the store, as one transaction, before anything below happens.
    pub records: Vec<Change>,
    pub world: Vec<M::World>,
    pub replies: Vec<(Waiter, M::Answer)>,
    pub announce: Vec<M::Notice>,
}

impl<M: Machine> Default for Batch<M> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            world: Vec::new(),
            replies: Vec::new(),
            announce: Vec::new(),
        }
    }
}

impl<M: Machine> Batch<M> {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.world.is_empty()
            && self.replies.is_empty()
            && self.announce.is_empty()
    }
}

/// A machine, its confirmed copy, and the line before it.
#[derive(Debug)]
pub struct Shell<M: Machine> {
    machine: Rc<M>,
    /// One with the machine, but while a record is being written.
    confirmed: Rc<M>,
    unconfirmed: Option<Batch<M>>,
    /// Most often empty, and an event may be large: a queue keeps room for some.
    line: VecDeque<Box<(M::Event, Option<Waiter>)>>,
    waiters: BTreeMap<Waiter, oneshot::Sender<M::Answer>>,
    waiters_issued: u64,
    span: tracing::Span,
}

impl<M: Machine> Shell<M> {
    /// In the span of whoever makes it: rooms log as parts of their sandbox.
    pub fn new(machine: M) -> Self {
        let machine = Rc::new(machine);
        Self {
            confirmed: machine.clone(),
            machine,
            unconfirmed: None,
            line: VecDeque::new(),
            waiters: BTreeMap::new(),
            waiters_issued: 0,
            span: tracing::Span::current(),
        }
    }

    /// In a span of its own.
    #[must_use]
    pub fn within(mut self, span: tracing::Span) -> Self {
        self.span = span;
        self
    }

    /// What is done for this machine is logged in it.
    pub fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    /// The machine as the store has confirmed it: what queries are answered from.
    pub fn confirmed(&self) -> &M {
        &self.confirmed
    }

    /// No record is being written and nothing waits in line.
    pub fn is_idle(&self) -> bool {
        self.unconfirmed.is_none() && self.line.is_empty()
    }

    pub(super) fn wait(&mut self) -> (Waiter, oneshot::Receiver<M::Answer>) {
        self.waiters_issued += 1;
        let waiter = Waiter(self.waiters_issued);
        let (sender, answer) = oneshot::channel();
        self.waiters.insert(waiter, sender);
        (waiter, answer)
    }

    pub(super) fn push(&mut self, event: M::Event, waiter: Option<Waiter>) {
        assert!(self.line.len() < LINE_MAX, "admission bounds what can wait");
        self.line.push_back(Box::new((event, waiter)));
    }

    /// Applies the next event in line unless a record is being written. `None`: nothing to do.
    pub(super) fn step(&mut self) -> Option<Step<M>> {
        if self.unconfirmed.is_some() {
            return None;
        }
        let (event, waiter) = *self.line.pop_front()?;
        let mut batch = Batch::default();
        let from = self.machine.state_name();
        let described = tracing::enabled!(tracing::Level::DEBUG).then(|| format!("{event:?}"));
        if let Err(denied) = Rc::make_mut(&mut self.machine).on(event, &mut batch) {
            tracing::debug!(from, event = described, ?denied, "denied");
            assert!(batch.is_empty(), "a denied event asks for nothing");
            let waiter = waiter.expect("only commands are denied, and a command has a waiter");
            batch.replies.push((waiter, M::refuse(denied)));
        } else {
            let to = self.machine.state_name();
            tracing::debug!(from, to, event = described, "applied");
        }
        let records = std::mem::take(&mut batch.records);
        if records.is_empty() {
            self.confirmed = self.machine.clone();
            return Some(Step::Perform(batch));
        }
        self.unconfirmed = Some(batch);
        Some(Step::Persist(records))
    }

    pub(super) fn confirm(&mut self) -> Batch<M> {
        let batch = self.unconfirmed.take();
        self.confirmed = self.machine.clone();
        batch.expect("the store confirms one transaction at a time")
    }

    pub(super) fn reply(&mut self, waiter: Waiter, answer: M::Answer) {
        let sender = self.waiters.remove(&waiter);
        let sender = sender.expect("a machine answers each waiter once");
        // A caller that gave up is not a fault of ours.
        let _ = sender.send(answer);
    }
}

/// What a shell asks of its room.
#[derive(Debug)]
pub(super) enum Step<M: Machine> {
    Persist(Vec<Change>),
    Perform(Batch<M>),
}
