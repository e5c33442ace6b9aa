//! How a failure travels between rooms: its kind, and its chain of causes as text.
//!
//! Each crate has its own error enum. Where one crosses to another room it becomes a [`Fault`]:
//! rooms decide on the kind, people read the chain, nobody decides on text.

use serde::{Deserialize, Serialize};
use std::{error::Error, fmt};

/// What a caller may decide on. One file of hutchd maps it to ttrpc codes, one of hutch to exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    /// The request itself is wrong.
    Invalid,
    /// The state refuses it now.
    Denied,
    /// The other side is not reachable; trying again may help.
    Unavailable,
    Timeout,
    /// A bound is reached.
    Exhausted,
    /// Given up half way; nothing was kept.
    Aborted,
    Unsupported,
    /// The world failed in a way that no caller can mend.
    Internal,
}

/// An error that knows its kind.
pub trait Classify: Error {
    fn kind(&self) -> Kind;
}

/// A failure on its way to another room: a kind, and what was being done, outermost first. It reads as one line, whatever
/// the words of a caller or a guest in it are: their lines are parted by "; ", and other control characters become spaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    kind: Kind,
    chain: Vec<String>,
}

impl Fault {
    /// A failure with one line, without a cause below it.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            chain: vec![line(what)],
        }
    }

    /// What was asked for makes no sense.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, what)
    }

    /// The same failure, seen from one step further out: `create sandbox "web"`.
    #[must_use]
    pub fn during(mut self, step: impl Into<String>) -> Self {
        self.chain.insert(0, line(step));
        self
    }

    /// What several steps came to, each of which ran: all their failures in one line, of the first one's kind.
    ///
    /// # Errors
    /// Any of them failed.
    pub fn join(faults: Vec<Self>) -> Result<(), Self> {
        let Some(kind) = faults.first().map(Self::kind) else {
            return Ok(());
        };
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Err(Self::new(kind, texts.join("; ")))
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened, outermost first; never empty.
    pub fn chain(&self) -> &[String] {
        &self.chain
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl Error for Fault {}

impl Classify for Fault {
    fn kind(&self) -> Kind {
        self.kind
    }
}

/// An error with its causes, outermost first, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Walks the sources of an error. Not a `From` impl: [`Fault`] is itself an error that classifies.
pub fn fault(error: &impl Classify) -> Fault {
    let mut chain = vec![line(error.to_string())];
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push(line(cause.to_string()));
        source = cause.source();
    }
    Fault {
        kind: error.kind(),
        chain,
    }
}

fn line(what: impl Into<String>) -> String {
    let what = what.into();
    if !what.contains(char::is_control) {
        return what;
    }
    let lines = what.split(['\n', '\r']).map(str::trim);
    let lines: Vec<_> = lines.filter(|one| !one.is_empty()).collect();
    lines.join("; ").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("boot guest")]
    struct Boot(#[source] std::num::ParseIntError);

    impl Classify for Boot {
        fn kind(&self) -> Kind {
            Kind::Timeout
        }
    }

    #[test]
    fn a_fault_reads_as_one_line_from_the_outermost_step_to_the_cause() {
        let cause = "x".parse::<u8>().unwrap_err();

        let fault = fault(&Boot(cause)).during("create sandbox \"web\"");

        assert_eq!(fault.kind(), Kind::Timeout);
        assert_eq!(
            fault.to_string(),
            "create sandbox \"web\": boot guest: invalid digit found in string"
        );
    }
    #[derive(Debug, thiserror::Error)]
    #[error("no such capability: {0}")]
    struct Unknown(String);

    impl Classify for Unknown {
        fn kind(&self) -> Kind {
            Kind::Invalid
        }
    }

    #[test]
    fn a_fault_reads_as_one_line_whatever_the_words_in_it_are() {
        let words = "CAP\n\tKILL\u{1b}[2J\r\n";

        let made = Fault::invalid(words).during(words);
        let walked = fault(&Unknown(words.to_owned()));

        let plain = "CAP; KILL [2J";
        assert_eq!(made.to_string(), format!("{plain}: {plain}"));
        assert_eq!(walked.to_string(), format!("no such capability: {plain}"));
    }
}
