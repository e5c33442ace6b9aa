//! One QMP conversation: a line codec of our own around the types of `qapi`.
//!
//! qapi's own codec ends the connection at an event that its schema does not know, and QEMU gains
//! events with every release; so a line is JSON first, and typed where somebody asks for it.
//! Commands go one at a time, because QEMU answers them in order anyway.

use crate::error::QmpError;
use qapi::{
    Execute,
    qmp::{self, QmpCommand},
};
use runtime_core::kit;
use serde::Deserialize;
use serde_json::Value;
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// The longest answer that we ask for, the list of character devices, has some kilobytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Events that may wait for the session to look at them; beyond it the conversation waits.
const EVENTS_MAX: usize = 64;

/// Commands that may wait behind the one that QEMU is answering; a caller waits beyond it.
const COMMANDS_MAX: usize = 16;

/// An event as it came. `data` stays JSON: see [`Event::read`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    #[serde(rename = "event")]
    pub name: String,
    #[serde(default)]
    pub data: Value,
}

impl Event {
    /// The data of an event of type `E`; `None` for another event, or one that QEMU changed.
    pub fn read<E: qapi::Event>(&self) -> Option<E> {
        let same = self.name == E::NAME;
        same.then(|| serde_json::from_value(self.data.clone()).ok())?
    }
}

/// One line from QEMU.
#[derive(Debug, Clone, PartialEq)]
enum Line {
    Greeting,
    Return(Value),
    Error(String),
    Event(Event),
    /// Something newer than we are.
    Other,
}

impl Line {
    fn parse(bytes: &[u8]) -> Result<Self, QmpError> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(QmpError::Line)?;
        let Some(object) = value.as_object_mut() else {
            return Ok(Self::Other);
        };
        if let Some(answer) = object.remove("return") {
            return Ok(Self::Return(answer));
        }
        if let Some(error) = object.remove("error") {
            let desc = error.get("desc").and_then(Value::as_str);
            let desc = desc.unwrap_or("no reason given");
            return Ok(Self::Error(desc.to_owned()));
        }
        if object.contains_key("QMP") {
            return Ok(Self::Greeting);
        }
        if object.contains_key("event") {
            let event = serde_json::from_value(value).map_err(QmpError::Line)?;
            return Ok(Self::Event(event));
        }
        Ok(Self::Other)
    }
}

/// Our end of a conversation. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Qmp {
    commands: mpsc::Sender<Command>,
}

type Answer = Result<Result<Value, String>, QmpError>;

#[derive(Debug)]
struct Command {
    line: Vec<u8>,
    answer: oneshot::Sender<Answer>,
}

impl Qmp {
    /// Connects, waits for the greeting and agrees on capabilities. The receiver ends when the
    /// conversation does.
    ///
    /// # Errors
    /// No greeting within the limit, or no QMP.
    pub async fn connect(
        path: &Path,
        limit: Duration,
    ) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let greet = async {
            let stream = UnixStream::connect(path).await;
            let stream = stream.map_err(|source| QmpError::Connect {
                path: path.to_owned(),
                source,
            })?;
            Self::greet(stream).await
        };
        let late = |_| QmpError::Timeout {
            command: "greeting",
            limit,
        };
        timeout(limit, greet).await.map_err(late)?
    }

    async fn greet<S>(stream: S) -> Result<(Self, mpsc::Receiver<Event>), QmpError>
    where
        S: AsyncRead + AsyncWrite + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let mut lines = Lines {
            read: BufReader::new(read),
            line: Vec::new(),
        };
        while lines.next().await? != Line::Greeting {}
        let (commands, receive_commands) = mpsc::channel(COMMANDS_MAX);
        let (send_events, events) = mpsc::channel(EVENTS_MAX);
        kit::detach(converse(lines, write, receive_commands, send_events));
        let qmp = Self { commands };
        qmp.execute(qmp::qmp_capabilities { enable: None }).await?;
        Ok((qmp, events))
    }

    /// Runs a command within the limit. A late answer is dropped when it comes.
    ///
    /// # Errors
    /// QEMU refuses it, does not answer in time, or is gone.
    pub async fn run<C: QmpCommand>(&self, command: C, limit: Duration) -> Result<C::Ok, QmpError> {
        let late = |_| QmpError::Timeout {
            command: C::NAME,
            limit,
        };
        timeout(limit, self.execute(command)).await.map_err(late)?
    }

    async fn execute<C: QmpCommand>(&self, command: C) -> Result<C::Ok, QmpError> {
        let name = C::NAME;
        let mut line =
            serde_json::to_vec(&Execute::<C>::with_command(command)).map_err(QmpError::Line)?;
        line.push(b'\n');
        let (answer, receive) = oneshot::channel();
        let sent = self.commands.send(Command { line, answer }).await;
        sent.map_err(|_| QmpError::Closed)?;
        let answer = receive.await.map_err(|_| QmpError::Closed)??;
        let value = answer.map_err(|reason| QmpError::Refused {
            command: name,
            reason,
        })?;
        serde_json::from_value(value).map_err(|source| QmpError::Answer {
            command: name,
            source,
        })
    }
}

/// Carries commands there and answers and events back until either side is gone.
async fn converse<R, W>(
    mut lines: Lines<R>,
    mut write: W,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut pending: Option<oneshot::Sender<Answer>> = None;
    loop {
        tokio::select! {
            biased;
            line = lines.next() => match line {
                Ok(Line::Return(value)) => answer(&mut pending, Ok(Ok(value))),
                Ok(Line::Error(reason)) => answer(&mut pending, Ok(Err(reason))),
                // Nobody listens any more: the conversation goes on for its commands.
                Ok(Line::Event(event)) => drop(events.send(event).await),
                Ok(Line::Greeting | Line::Other) => {}
                Err(error) => return answer(&mut pending, Err(error)),
            },
            command = commands.recv(), if pending.is_none() => {
                let Some(command) = command else { return };
                // Its limit passed while it waited in line: it must not happen after that.
                if command.answer.is_closed() {
                    continue;
                }
                if let Err(error) = write.write_all(&command.line).await {
                    drop(command.answer.send(Err(QmpError::Io(error))));
                    return;
                }
                pending = Some(command.answer);
            }
        }
    }
}

fn answer(pending: &mut Option<oneshot::Sender<Answer>>, outcome: Answer) {
    if let Some(waiting) = pending.take() {
        // A caller whose limit passed is not a fault of ours.
        let _ = waiting.send(outcome);
    }
}

/// Reads lines. Keeps what it has of one, so that it may be dropped while it waits.
struct Lines<R> {
    read: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    async fn next(&mut self) -> Result<Line, QmpError> {
        loop {
            let chunk = self.read.fill_buf().await.map_err(QmpError::Io)?;
            if chunk.is_empty() {
                return Err(QmpError::Closed);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |at| at + 1);
            self.line.extend_from_slice(&chunk[..taken]);
            self.read.consume(taken);
            if self.line.len() > LINE_BYTES_MAX {
                let max = LINE_BYTES_MAX;
                return Err(QmpError::LineTooLong { max });
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                return Line::parse(&line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::DuplexStream, task::LocalSet};

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
    const LIMIT: Duration = Duration::from_secs(5);

    /// The other end, played by the test.
    struct Peer(BufReader<DuplexStream>);

    impl Peer {
        async fn hears(&mut self) -> Value {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            serde_json::from_str(&line).unwrap()
        }

        async fn says(&mut self, line: &str) {
            let line = format!("{line}\r\n");
            self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
        }
    }

    async fn greeted() -> (Qmp, mpsc::Receiver<Event>, Peer) {
        let (ours, theirs) = tokio::io::duplex(64);
        let mut peer = Peer(BufReader::new(theirs));
        let play = async {
            peer.0.get_mut().write_all(GREETING).await.unwrap();
            assert_eq!(peer.hears().await["execute"], "qmp_capabilities");
            peer.says(r#"{"return": {}}"#).await;
        };
        let (greeted, ()) = tokio::join!(Qmp::greet(ours), play);
        let (qmp, events) = greeted.unwrap();
        (qmp, events, peer)
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_unknown_event_is_kept_and_the_conversation_goes_on() {
        let test = async {
            let (qmp, mut events, mut peer) = greeted().await;
            let play = async {
                peer.hears().await;
                peer.says(r#"{"event": "FROM_THE_FUTURE", "data": {"x": 1}}"#)
                    .await;
                peer.says(r#"{"something": "else"}"#).await;
                peer.says(r#"{"return": {}}"#).await;
            };

            let (stopped, ()) = tokio::join!(qmp.run(qmp::stop {}, LIMIT), play);

            stopped.unwrap();
            let event = events.recv().await.unwrap();
            assert_eq!(event.name, "FROM_THE_FUTURE");
            assert_eq!(event.data["x"], 1);
            assert!(event.read::<qmp::SHUTDOWN>().is_none());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_refusal_carries_the_words_of_qemu() {
        let test = async {
            let (qmp, _events, mut peer) = greeted().await;
            let play = async {
                peer.hears().await;
                peer.says(r#"{"error": {"class": "NewClass", "desc": "no bus"}}"#)
                    .await;
            };

            let (stopped, ()) = tokio::join!(qmp.run(qmp::stop {}, LIMIT), play);

            assert_eq!(
                stopped.unwrap_err().to_string(),
                "qemu refused stop: no bus"
            );
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_late_answer_is_not_taken_for_the_next_commands() {
        let test = async {
            let (qmp, _events, mut peer) = greeted().await;

            let late = qmp.run(qmp::query_status {}, LIMIT).await;
            let play = async {
                assert_eq!(peer.hears().await["execute"], "query-status");
                peer.says(r#"{"return": {"late": true}}"#).await;
                assert_eq!(peer.hears().await["execute"], "cont");
                peer.says(r#"{"return": {}}"#).await;
            };
            let (resumed, ()) = tokio::join!(qmp.run(qmp::cont {}, LIMIT), play);

            assert!(matches!(late, Err(QmpError::Timeout { .. })));
            resumed.unwrap();
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_vmm_that_goes_fails_the_command_and_ends_the_events() {
        let test = async {
            let (qmp, mut events, mut peer) = greeted().await;
            let play = async {
                peer.hears().await;
                peer.says(
                    r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                )
                .await;
                drop(peer);
            };

            let (stopped, ()) = tokio::join!(qmp.run(qmp::stop {}, LIMIT), play);

            assert!(matches!(stopped, Err(QmpError::Closed)));
            let shutdown: qmp::SHUTDOWN = events.recv().await.unwrap().read().unwrap();
            assert_eq!(shutdown.reason, qmp::ShutdownCause::guest_reset);
            assert!(events.recv().await.is_none());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_line_without_end_is_an_error_and_not_memory() {
        let test = async {
            let (qmp, _events, mut peer) = greeted().await;
            let play = async {
                peer.hears().await;
                let chunk = vec![b'x'; 64 * 1024];
                while peer.0.get_mut().write_all(&chunk).await.is_ok() {}
            };

            let (stopped, ()) = tokio::join!(qmp.run(qmp::stop {}, LIMIT), play);

            assert!(matches!(stopped, Err(QmpError::LineTooLong { .. })));
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_vmm_that_never_greets_is_given_up() {
        let test = async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("qmp.sock");
            let _listener = tokio::net::UnixListener::bind(&path).unwrap();

            let greeted = Qmp::connect(&path, LIMIT).await;

            assert!(matches!(greeted, Err(QmpError::Timeout { .. })));
        };
        LocalSet::new().run_until(test).await;
    }
}
