//! The log of a simulated world: what happened, and when on its clock. Two runs of a seed write
//! the same bytes.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    io,
    rc::Rc,
};
use tokio::time::Instant;

#[derive(Clone)]
pub struct Log {
    text: Rc<RefCell<String>>,
    begun: Instant,
}

thread_local! {
    /// Where the rooms' own log goes; it has no other way to the world of its thread.
    static TRACED: RefCell<Option<Log>> = const { RefCell::new(None) };
}

impl Log {
    /// Begins now; within a runtime.
    pub fn new() -> Self {
        Self {
            text: Rc::default(),
            begun: Instant::now(),
        }
    }

    pub fn say(&self, what: impl fmt::Display) {
        let ms = self.begun.elapsed().as_millis();
        // Writing to a text does not fail.
        let _ = writeln!(self.text.borrow_mut(), "{ms:>8} {what}");
    }

    pub fn text(&self) -> String {
        self.text.borrow().clone()
    }

    /// From now on what the rooms of this thread trace is in this log too.
    pub fn trace(&self) -> tracing::subscriber::DefaultGuard {
        TRACED.set(Some(self.clone()));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(|| Traced)
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

struct Traced;

impl io::Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TRACED.with_borrow(|log| {
            if let Some(log) = log {
                log.say(String::from_utf8_lossy(bytes).trim_end());
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
