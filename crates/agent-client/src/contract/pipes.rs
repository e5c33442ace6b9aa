//! The stdio of processes in a stock agent: pipes that are read and written call by call, and are
//! closed with whatever is in them when the exit is told.
//!
//! Its programs: `echo WORDS`, `cat`, `head -c COUNT FILE`, whose bytes are zeros, and `liar`, which
//! makes the agent answer with more than was asked for; others say nothing.

use crate::fake::FakeGuest;
use runtime_core::{
    agent::ExitReason,
    ids::{ContainerNumber, ProcessId},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};
use tokio::sync::Notify;

pub(super) type Key = (ContainerNumber, ProcessId);

/// What a pipe holds: a program that has written all but this much is over.
const PIPE: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Pipes {
    all: Mutex<BTreeMap<Key, Pipe>>,
    changed: Notify,
}

#[derive(Debug)]
struct Pipe {
    program: Program,
    stdout: VecDeque<u8>,
    stdin_closed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Cat,
    Head,
    Liar,
    Other,
}

/// Why there is nothing to read or nobody to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shut {
    Eof,
    NotFound,
}

/// What `args` says at once, and what it is.
fn of_args(args: &[String]) -> (Program, Vec<u8>) {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["/bin/echo", words @ ..] => (Program::Other, format!("{}\n", words.join(" ")).into()),
        ["/bin/cat"] => (Program::Cat, Vec::new()),
        ["/bin/liar"] => (Program::Liar, vec![b'x'; 16]),
        ["/bin/head", "-c", count, _] => {
            let count = count.parse().unwrap_or(0);
            (Program::Head, vec![0; count])
        }
        _ => (Program::Other, Vec::new()),
    }
}

impl Pipes {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Key, Pipe>) -> T) -> T {
        let value = act(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        value
    }

    pub fn made(&self, key: Key, args: &[String]) {
        let (program, said) = of_args(args);
        let pipe = Pipe {
            program,
            stdout: said.into(),
            stdin_closed: 0,
        };
        self.with(|all| all.insert(key, pipe));
    }

    /// The exit was told: what was not read is gone.
    pub fn consumed(&self, key: &Key) {
        self.with(|all| all.remove(key));
    }

    pub fn removed(&self, container: ContainerNumber) {
        self.with(|all| all.retain(|(of, _), _| *of != container));
    }

    pub async fn read_stdout(
        &self,
        guest: &FakeGuest,
        key: &Key,
        max: usize,
    ) -> Result<Vec<u8>, Shut> {
        loop {
            let changed = self.changed.notified();
            let ended = guest.outcome(key.0, &key.1).is_some();
            let begun = guest.has_begun(key.0, &key.1);
            let (bytes, over) = self.peek(key, max, begun)?;
            if over {
                guest.end(key.0, key.1.clone(), 0, ExitReason::Exited);
            }
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            if ended {
                return Err(Shut::Eof);
            }
            tokio::select! {
                biased;
                () = changed => {}
                // An end, a start: the guest tells both alike.
                () = guest.stirred() => {}
            }
        }
    }

    /// What is there, and whether the program is done with it.
    fn peek(&self, key: &Key, max: usize, begun: bool) -> Result<(Vec<u8>, bool), Shut> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = all.get_mut(key).ok_or(Shut::NotFound)?;
        if !begun {
            return Ok((Vec::new(), false));
        }
        let count = match pipe.program {
            Program::Liar => return Ok((vec![b'x'; max + 1], false)),
            Program::Cat | Program::Head | Program::Other => max.min(pipe.stdout.len()),
        };
        let bytes = pipe.stdout.drain(..count).collect();
        let over = pipe.program == Program::Head && pipe.stdout.len() <= PIPE;
        Ok((bytes, over))
    }

    pub async fn read_stderr(&self, guest: &FakeGuest, key: &Key) -> Shut {
        let known = self.with(|all| all.contains_key(key));
        match known {
            false => Shut::NotFound,
            true => {
                guest.ended(key.0, &key.1).await;
                Shut::Eof
            }
        }
    }

    pub fn write(&self, key: &Key, bytes: &[u8]) -> Result<usize, Shut> {
        self.with(|all| {
            let pipe = all.get_mut(key).ok_or(Shut::NotFound)?;
            if pipe.stdin_closed > 0 {
                return Err(Shut::Eof);
            }
            if pipe.program == Program::Cat {
                pipe.stdout.extend(bytes);
            }
            Ok(bytes.len())
        })
    }

    pub fn close_stdin(&self, guest: &FakeGuest, key: &Key) -> Result<(), Shut> {
        let program = self.with(|all| {
            let pipe = all.get_mut(key).ok_or(Shut::NotFound)?;
            pipe.stdin_closed += 1;
            Ok(pipe.program)
        })?;
        if program == Program::Cat {
            guest.end(key.0, key.1.clone(), 0, ExitReason::Exited);
        }
        Ok(())
    }
}
