//! The arguments of `hutch-relay`. It is started by programs, not by people.

use hutch_relay::StreamAddress;
use std::ffi::OsString;
use std::path::PathBuf;
use stream::{Resume, StdinFrom};

/// Where the stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    Known(StreamAddress),
    /// This descriptor of the caller's says it, once the process is made; nothing, if it was not.
    ToldBy(i32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    pub stream: Stream,
    pub hutchd: PathBuf,
    pub namespace: String,
    pub container: String,
    /// Empty: the init.
    pub exec: String,
    pub terminal: bool,
    pub console_socket: Option<PathBuf>,
    /// A successor knows what its predecessor had written out, and how much of stdin it had read.
    pub resume: Resume,
    pub stdin_from: StdinFrom,
    /// A file that is made if the process was killed for want of memory, before its exit is seen.
    pub oom_note: Option<PathBuf>,
    /// Gets the word "ready", or why it did not come to that.
    pub ready_fd: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongArgs {
    #[error("unknown argument {0:?}")]
    Unknown(String),
    #[error("argument {0} has no value")]
    NoValue(String),
    #[error("argument {name} has the value {value:?}, which it cannot have")]
    BadValue { name: String, value: String },
    #[error("argument {0} is missing")]
    Missing(&'static str),
    #[error("arguments {0} and {1} exclude each other")]
    Together(&'static str, &'static str),
}

#[derive(Default)]
struct Found {
    stream: Option<PathBuf>,
    connect_port: Option<u32>,
    stream_fd: Option<i32>,
    hutchd: Option<PathBuf>,
    container: Option<String>,
    stdout_from: Option<u64>,
    stderr_from: Option<u64>,
}

impl Args {
    /// `args` are those after the name of the program.
    ///
    /// # Errors
    /// Names the first argument that is wrong.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, WrongArgs> {
        let mut args = args.map(|arg| {
            arg.into_string()
                .map_err(|arg| arg.to_string_lossy().into_owned())
        });
        let mut found = Found::default();
        let mut parsed = Self {
            stream: Stream::ToldBy(-1),
            hutchd: PathBuf::new(),
            namespace: "default".to_owned(),
            container: String::new(),
            exec: String::new(),
            terminal: false,
            console_socket: None,
            resume: Resume::Acked,
            stdin_from: StdinFrom::Next,
            oom_note: None,
            ready_fd: None,
        };
        while let Some(arg) = args.next() {
            let name = arg.map_err(WrongArgs::Unknown)?;
            match name.as_str() {
                "--terminal" => parsed.terminal = true,
                _ => {
                    let value = match args.next() {
                        Some(Ok(value)) => value,
                        Some(Err(value)) => return Err(WrongArgs::BadValue { name, value }),
                        None => return Err(WrongArgs::NoValue(name)),
                    };
                    parsed.set(&mut found, name, value)?;
                }
            }
        }
        parsed.stream = match (found.stream, found.connect_port, found.stream_fd) {
            (Some(socket), port, None) => {
                Stream::Known(StreamAddress::read(socket, port.unwrap_or(0)))
            }
            (None, None, Some(number)) => Stream::ToldBy(number),
            (Some(_), _, Some(_)) => return Err(WrongArgs::Together("--stream", "--stream-fd")),
            // Whoever tells of the stream tells its port too.
            (None, Some(_), Some(_)) => {
                return Err(WrongArgs::Together("--connect-port", "--stream-fd"));
            }
            (None, _, None) => return Err(WrongArgs::Missing("--stream")),
        };
        parsed.hutchd = found.hutchd.ok_or(WrongArgs::Missing("--hutchd"))?;
        parsed.container = found.container.ok_or(WrongArgs::Missing("--container"))?;
        if found.stdout_from.is_some() || found.stderr_from.is_some() {
            parsed.resume = Resume::At {
                stdout: found.stdout_from.unwrap_or(0),
                stderr: found.stderr_from.unwrap_or(0),
            };
        }
        Ok(parsed)
    }

    fn set(&mut self, found: &mut Found, name: String, value: String) -> Result<(), WrongArgs> {
        match name.as_str() {
            "--stream" => found.stream = Some(value.into()),
            "--connect-port" => found.connect_port = Some(number(name, value)?),
            "--stream-fd" => found.stream_fd = Some(number(name, value)?),
            "--hutchd" => found.hutchd = Some(value.into()),
            "--namespace" => self.namespace = value,
            "--container" => found.container = Some(value),
            "--exec" => self.exec = value,
            "--console-socket" => self.console_socket = Some(value.into()),
            "--stdin-from" => self.stdin_from = StdinFrom::At(number(name, value)?),
            "--stdout-from" => found.stdout_from = Some(number(name, value)?),
            "--stderr-from" => found.stderr_from = Some(number(name, value)?),
            "--oom-note" => self.oom_note = Some(value.into()),
            "--ready-fd" => self.ready_fd = Some(number(name, value)?),
            _ => return Err(WrongArgs::Unknown(name)),
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(name: String, value: String) -> Result<T, WrongArgs> {
    value
        .parse()
        .map_err(|_| WrongArgs::BadValue { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Args, WrongArgs> {
        Args::parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn every_argument_has_its_place() {
        let args = parse(
            "--stream /s/p1.sock --connect-port 1025 --hutchd /s/hutchd.sock --namespace k8s.io \
             --container web --exec e1 --terminal --console-socket /c.sock \
             --oom-note /b/oom --ready-fd 5 --stdin-from 1 --stdout-from 2 --stderr-from 3",
        );

        assert_eq!(
            args,
            Ok(Args {
                stream: Stream::Known(StreamAddress::Hybrid {
                    socket: "/s/p1.sock".into(),
                    port: 1025
                }),
                hutchd: "/s/hutchd.sock".into(),
                namespace: "k8s.io".to_owned(),
                container: "web".to_owned(),
                exec: "e1".to_owned(),
                terminal: true,
                console_socket: Some("/c.sock".into()),
                resume: Resume::At {
                    stdout: 2,
                    stderr: 3
                },
                stdin_from: StdinFrom::At(1),
                oom_note: Some("/b/oom".into()),
                ready_fd: Some(5),
            })
        );
    }

    #[test]
    fn an_address_may_come_later() {
        let args = parse("--stream-fd 7 --hutchd /s/hutchd.sock --container web").unwrap();

        assert_eq!(args.stream, Stream::ToldBy(7));
    }

    #[test]
    fn wrong_arguments_are_named() {
        let missing = parse("--stream /s --hutchd /h");
        let no_value = parse("--stream");
        let bad = parse("--connect-port many");
        let unknown = parse("--verbose yes");
        let two = parse("--stream /s --stream-fd 7");
        let port = parse("--connect-port 7 --stream-fd 7");

        assert_eq!(missing, Err(WrongArgs::Missing("--container")));
        assert_eq!(no_value, Err(WrongArgs::NoValue("--stream".to_owned())));
        assert!(matches!(bad, Err(WrongArgs::BadValue { .. })));
        assert_eq!(unknown, Err(WrongArgs::Unknown("--verbose".to_owned())));
        let excluded = |one| Err(WrongArgs::Together(one, "--stream-fd"));
        assert_eq!(two, excluded("--stream"));
        assert_eq!(port, excluded("--connect-port"));
    }
}
