//! What becomes of each call of a port: as the seed's weather has it.
//!
//! A [`Life`] is one daemon process. Every port of that daemon goes through it; after its death
//! nothing of it touches the world any more.

use super::{dice::Dice, log::Log, pass};
use runtime_core::kit::Work;
use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{pending, poll_fn},
    rc::Rc,
    task::Poll,
    time::Duration,
};
use tokio::sync::Notify;

/// What can go wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Slow,
    /// The call fails.
    Fails,
    /// The actor panics as it makes the call.
    PanicInHandler,
    /// The work panics before it did anything.
    PanicBefore,
    /// It did everything, and then it panics.
    PanicAfter,
    /// The daemon is killed before the effect.
    KillBefore,
    /// The daemon is killed when the effect is there and nobody knows.
    KillAfter,
}

/// Panics that are meant.
pub struct Injected;

/// Which troubles there are, and how many.
#[derive(Debug, Clone)]
pub struct Weather {
    pub troubles: Vec<Trouble>,
    pub per_mille: u64,
    /// At exactly this call.
    pub at: Option<u64>,
    pub most: u64,
}

impl Weather {
    pub fn calm() -> Self {
        Self {
            troubles: Vec::new(),
            per_mille: 0,
            at: None,
            most: 0,
        }
    }
}

/// Draws the fate of every call of every daemon of a world.
pub struct Fates {
    pub log: Log,
    dice: Dice,
    weather: RefCell<Weather>,
    calls: Cell<u64>,
    drawn: Cell<u64>,
}

impl Fates {
    pub fn new(log: Log, dice: Dice, weather: Weather) -> Self {
        Self {
            log,
            dice,
            weather: RefCell::new(weather),
            calls: Cell::new(0),
            drawn: Cell::new(0),
        }
    }

    /// From now on every call is as it should be.
    pub fn calm_down(&self) {
        *self.weather.borrow_mut() = Weather::calm();
    }

    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// How many troubles there were.
    pub fn troubles(&self) -> u64 {
        self.drawn.get()
    }

    fn draw(&self, possible: &[Trouble]) -> Option<Trouble> {
        self.calls.set(self.calls.get() + 1);
        let mut weather = self.weather.borrow_mut();
        let due = match weather.at {
            Some(at) => at <= self.calls.get(),
            None => self.dice.chance(weather.per_mille),
        };
        let troubles = weather.troubles.iter().copied();
        let troubles: Vec<_> = troubles.filter(|t| possible.contains(t)).collect();
        if !due || troubles.is_empty() || self.drawn.get() >= weather.most {
            return None;
        }
        weather.at = weather.at.map(|_| u64::MAX);
        self.drawn.set(self.drawn.get() + 1);
        Some(*self.dice.pick(&troubles))
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(*self.dice.pick(&[3, 40, 700, 6_000]))
    }
}

/// One daemon process, as its ports know it.
pub struct Life {
    pub fates: Rc<Fates>,
    pub number: u32,
    alive: Cell<bool>,
    killed: Notify,
    on_death: RefCell<Box<dyn Fn()>>,
    after_each: Box<dyn Fn(&str)>,
}

/// How a call may go wrong besides by being slow, by a panic, or with the daemon.
pub const SOUND: &[Trouble] = &[
    Trouble::Slow,
    Trouble::PanicInHandler,
    Trouble::PanicBefore,
    Trouble::PanicAfter,
    Trouble::KillBefore,
    Trouble::KillAfter,
];
pub const ANY: &[Trouble] = &[
    Trouble::Slow,
    Trouble::Fails,
    Trouble::PanicInHandler,
    Trouble::PanicBefore,
    Trouble::PanicAfter,
    Trouble::KillBefore,
    Trouble::KillAfter,
];

impl Life {
    /// `on_death` happens at the moment of death; `after_each` call that was carried out.
    pub fn new(
        fates: Rc<Fates>,
        number: u32,
        on_death: impl Fn() + 'static,
        after_each: impl Fn(&str) + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            fates,
            number,
            alive: Cell::new(true),
            killed: Notify::new(),
            on_death: RefCell::new(Box::new(on_death)),
            after_each: Box::new(after_each),
        })
    }

    pub fn is_alive(&self) -> bool {
        self.alive.get()
    }

    pub fn kill(&self, why: impl fmt::Display) {
        if self.alive.replace(false) {
            self.fates
                .log
                .say(format_args!("daemon {} dies: {why}", self.number));
            (self.on_death.borrow())();
            self.killed.notify_one();
        }
    }

    pub async fn killed(&self) {
        if self.is_alive() {
            self.killed.notified().await;
        }
    }

    /// A call of a port: drawn, told, begun at once as the port would, and carried out.
    pub fn call<T: 'static>(
        self: &Rc<Self>,
        name: String,
        possible: &[Trouble],
        work: impl FnOnce() -> Work<T>,
        failed: impl FnOnce() -> Work<T>,
    ) -> Work<T> {
        if !self.is_alive() {
            return Box::pin(pending());
        }
        let trouble = self.fates.draw(possible);
        match trouble {
            None => self.fates.log.say(format_args!("call {name}")),
            Some(trouble) => self.fates.log.say(format_args!("call {name} !{trouble:?}")),
        }
        let work = match trouble {
            Some(Trouble::PanicInHandler) => std::panic::panic_any(Injected),
            Some(Trouble::KillBefore) => {
                self.kill("at an effect");
                return Box::pin(pending());
            }
            Some(Trouble::Fails) => failed(),
            _ => work(),
        };
        let life = self.clone();
        let delay = self.fates.delay();
        Box::pin(async move {
            match trouble {
                Some(Trouble::Slow) => pass(delay).await,
                Some(Trouble::PanicBefore) => std::panic::panic_any(Injected),
                _ => {}
            }
            let value = life.while_alive(work).await;
            life.fates.log.say(format_args!("done {name}"));
            (life.after_each)(&name);
            match trouble {
                Some(Trouble::PanicAfter) => std::panic::panic_any(Injected),
                Some(Trouble::KillAfter) => {
                    life.kill("after an effect");
                    pending().await
                }
                _ => value,
            }
        })
    }

    /// The dead do nothing more, even in the instant of their death.
    async fn while_alive<T>(&self, mut work: Work<T>) -> T {
        poll_fn(|context| match self.is_alive() {
            true => work.as_mut().poll(context),
            false => Poll::Pending,
        })
        .await
    }
}
