//! Tells a parent that a child is gone. `actix::Supervisor` does not restart an actor that
//! panicked, and restarts a stopped one with its old, perhaps bad, state; so every child carries
//! a guard, and the parent rebuilds it from its record.

use std::fmt;

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// A handler, or work done for it, panicked: the actor is rebuilt from its record.
    Panicked,
    /// It was drained.
    Stopped,
}

/// A field of every child actor; its drop is the news.
pub struct Guard(Option<Box<dyn FnOnce(Gone)>>);

impl Guard {
    /// `tell` runs while the child unwinds: it may only post a message.
    pub fn new(tell: impl FnOnce(Gone) + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let gone = match std::thread::panicking() {
            true => Gone::Panicked,
            false => Gone::Stopped,
        };
        if let Some(tell) = self.0.take() {
            tell(gone);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}
