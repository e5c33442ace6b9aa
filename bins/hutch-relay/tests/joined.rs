//! The library between real pipes and a guest behind a real socket.

#![allow(clippy::unwrap_used)]

mod fakes;

use fakes::{FakeGuest, Kind, LIMIT, wait_until};
use hutch_relay::{Outcome, Relay, RelayError, Report, Session, Stdio, StreamAddress};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;
use stream::{Channel, Encoder, Frame, Hello, Nonce, Outputs, Request, Resume, VERSION};

/// The other ends of a relay's files.
struct Ends {
    stdin: PipeWriter,
    stdout: PipeReader,
    stderr: PipeReader,
}

fn pipes() -> (Stdio, Ends) {
    let (stdin_reader, stdin) = pipe().unwrap();
    let (stdout, stdout_writer) = pipe().unwrap();
    let (stderr, stderr_writer) = pipe().unwrap();
    let stdio = Stdio {
        stdin: Some(stdin_reader.into()),
        stdout: Some(stdout_writer.into()),
        stderr: Some(stderr_writer.into()),
    };
    (
        stdio,
        Ends {
            stdin,
            stdout,
            stderr,
        },
    )
}

fn session(guest: &FakeGuest, stdio: Stdio) -> Session {
    Session::new(StreamAddress::Socket(guest.socket()), stdio, LIMIT)
}

fn relay(guest: &FakeGuest, stdio: Stdio) -> thread::JoinHandle<Report> {
    let session = session(guest, stdio);
    thread::spawn(move || Relay::open(session).unwrap().run().unwrap())
}

fn read_all(mut from: PipeReader) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

#[test]
fn sixty_four_mebibytes_come_back_with_the_same_checksum() {
    const PIECES: u32 = 1024;
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["cat"]);
    let (stdio, ends) = pipes();
    let report = relay(&guest, stdio);
    let writer = thread::spawn(move || {
        let mut stdin = ends.stdin;
        let mut sum = DefaultHasher::new();
        for piece in 0..PIECES {
            let bytes: Vec<u8> = (0..64 * 1024_u32)
                .map(|at| (at ^ (piece * 7)) as u8)
                .collect();
            stdin.write_all(&bytes).unwrap();
            sum.write(&bytes);
        }
        sum.finish()
    });
    let mut sum = DefaultHasher::new();
    let mut total = 0;
    let mut stdout = ends.stdout;
    let mut buffer = vec![0; 64 * 1024];
    while let count @ 1.. = stdout.read(&mut buffer).unwrap() {
        sum.write(&buffer[..count]);
        total += count;
    }

    assert_eq!(total, PIECES as usize * 64 * 1024);
    assert_eq!(sum.finish(), writer.join().unwrap());
    assert_eq!(report.join().unwrap().outcome, Outcome::Exited(0));
}

#[test]
fn the_end_of_stdin_reaches_the_process() {
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["wc", "-c"]);
    let (stdio, mut ends) = pipes();
    let report = relay(&guest, stdio);

    ends.stdin.write_all(b"twelve bytes").unwrap();
    drop(ends.stdin);

    assert_eq!(read_all(ends.stdout).join().unwrap(), b"12\n");
    assert_eq!(report.join().unwrap().outcome, Outcome::Exited(0));
}

/// It is greeted twice: the first HELLO is swallowed by the frame that was begun.
#[test]
fn what_one_before_left_half_said_as_it_was_killed_is_no_part_of_what_is_said_now() {
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["cat"]);
    let nonce = Nonce([7; 16]);
    let hello = Hello {
        nonce,
        version: VERSION,
        resume: Resume::Acked,
    };
    let half = Frame::Data {
        channel: Channel::Stdin,
        offset: 0,
        bytes: &[b'x'; 1000],
    };
    let (mut said, encoder) = (Vec::new(), Encoder::new(nonce));
    encoder.encode(&Frame::Hello(hello), &mut said);
    encoder.encode(&half, &mut said);
    let mut killed = UnixStream::connect(guest.socket()).unwrap();
    killed.write_all(&said[..said.len() - 500]).unwrap();
    killed.read_exact(&mut [0; 16]).unwrap();
    drop(killed);

    let (stdio, mut ends) = pipes();
    let report = relay(&guest, stdio);
    ends.stdin.write_all(b"all of it").unwrap();
    drop(ends.stdin);

    assert_eq!(read_all(ends.stdout).join().unwrap(), b"all of it");
    assert_eq!(report.join().unwrap().outcome, Outcome::Exited(0));
}

#[test]
fn output_written_just_before_the_exit_is_all_there() {
    let script = "head -c 200000 /dev/zero; echo last >&2; exit 7";
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["sh", "-c", script]);
    let (stdio, ends) = pipes();
    let report = relay(&guest, stdio);
    let (stdout, stderr) = (read_all(ends.stdout), read_all(ends.stderr));

    let report = report.join().unwrap();

    assert_eq!(report.outcome, Outcome::Exited(7));
    assert!(report.broken.is_empty());
    assert_eq!(stdout.join().unwrap().len(), 200_000);
    assert_eq!(stderr.join().unwrap(), b"last\n");
}

#[test]
fn an_exit_is_reported_while_a_child_holds_the_pipe() {
    let script = "sleep 1000 & echo started; exit 3";
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["sh", "-c", script]);
    let (stdio, ends) = pipes();

    let report = relay(&guest, stdio).join().unwrap();

    assert_eq!(report.outcome, Outcome::Exited(3));
    assert_eq!(read_all(ends.stdout).join().unwrap(), b"started\n");
}

#[test]
fn a_reader_that_has_enough_breaks_the_pipe_of_the_process() {
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["yes"]);
    let (stdio, mut ends) = pipes();
    let report = relay(&guest, stdio);
    let mut first = [0; 4];
    ends.stdout.read_exact(&mut first).unwrap();

    drop(ends.stdout);

    let report = report.join().unwrap();
    assert_eq!(report.outcome, Outcome::Exited(128 + 13));
    assert_eq!(report.broken[0].errno, rustix::io::Errno::PIPE);
}

#[test]
fn a_disk_that_is_full_is_reported() {
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["sh", "-c", "echo x; exit 0"]);
    let (stdio, _ends) = pipes();
    let full = File::options().write(true).open("/dev/full").unwrap();

    let report = relay(
        &guest,
        Stdio {
            stdout: Some(full.into()),
            ..stdio
        },
    );

    let report = report.join().unwrap();
    assert_eq!(report.outcome, Outcome::Exited(0));
    assert_eq!(report.broken[0].errno, rustix::io::Errno::NOSPC);
}

#[test]
fn a_process_that_reads_no_stdin_does_not_hold_up_its_output() {
    let script = "exec <&-; head -c 3000000 /dev/zero";
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["sh", "-c", script]);
    let (stdio, ends) = pipes();
    let report = relay(&guest, stdio);
    let mut stdin = ends.stdin;
    let writer = thread::spawn(move || while stdin.write_all(&[1; 4096]).is_ok() {});

    assert_eq!(read_all(ends.stdout).join().unwrap().len(), 3_000_000);

    assert_eq!(report.join().unwrap().outcome, Outcome::Exited(0));
    writer.join().unwrap();
}

#[test]
fn a_slow_reader_loses_nothing() {
    let script = "for i in $(seq 60000); do echo $i; done";
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["sh", "-c", script]);
    let (stdio, mut ends) = pipes();
    let report = relay(&guest, stdio);
    let mut text = Vec::new();
    let mut buffer = [0; 1000];
    while let count @ 1.. = ends.stdout.read(&mut buffer).unwrap() {
        text.extend_from_slice(&buffer[..count]);
        thread::yield_now();
    }

    let wanted: String = (1..=60_000).map(|number| format!("{number}\n")).collect();

    assert!(text == wanted.as_bytes());
    assert_eq!(report.join().unwrap().outcome, Outcome::Exited(0));
}

#[test]
fn a_vm_that_dies_is_lost_and_its_last_words_are_written() {
    let guest = FakeGuest::run(
        Outputs::StdoutAndStderr,
        &["sh", "-c", "echo word; sleep 1000"],
    );
    let (stdio, mut ends) = pipes();
    let report = relay(&guest, stdio);
    let mut word = [0; 5];
    ends.stdout.read_exact(&mut word).unwrap();

    let mut guest = guest;
    guest.die();

    assert_eq!(&word, b"word\n");
    assert_eq!(report.join().unwrap().outcome, Outcome::Lost);
}

#[test]
fn a_hybrid_vsock_is_asked_for_its_port() {
    let guest = FakeGuest::start(
        Kind::Hybrid,
        Outputs::StdoutAndStderr,
        &["sh", "-c", "read line; echo got $line; exit 5"],
    );
    let (stdio, mut ends) = pipes();
    let mut session = session(&guest, stdio);
    session.stream = StreamAddress::Hybrid {
        socket: guest.socket(),
        port: 1025,
    };
    let report = thread::spawn(move || Relay::open(session).unwrap().run().unwrap());

    ends.stdin.write_all(b"it\n").unwrap();

    assert_eq!(read_all(ends.stdout).join().unwrap(), b"got it\n");
    assert_eq!(report.join().unwrap().outcome, Outcome::Exited(5));
}

#[test]
fn files_that_are_not_given_are_as_dev_null() {
    let script = "cat; echo into the void; echo more; exit 4";
    let guest = FakeGuest::run(Outputs::StdoutAndStderr, &["sh", "-c", script]);

    let report = relay(&guest, Stdio::default()).join().unwrap();

    assert_eq!(report.outcome, Outcome::Exited(4));
    assert!(report.broken.is_empty());
}

#[test]
fn a_socket_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let address = StreamAddress::Socket(dir.path().join("p9.sock"));

    let outcome = Relay::open(Session::new(address, Stdio::default(), LIMIT));

    let error = outcome.unwrap_err();
    assert!(matches!(
        error,
        RelayError::Connect {
            source: rustix::io::Errno::NOENT,
            ..
        }
    ));
}

#[test]
fn a_guest_that_does_not_answer_in_time_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("p1.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let address = StreamAddress::Socket(socket);

    let session = Session::new(address, Stdio::default(), Duration::from_millis(50));

    let error = Relay::open(session).unwrap_err();
    assert!(matches!(error, RelayError::NoAnswer { .. }));
}

#[test]
fn the_size_of_a_terminal_follows_it() {
    let (master, slave) = fakes::open_terminal();
    fakes::set_size(&master, 24, 80);
    let guest = FakeGuest::run(Outputs::Terminal, &["cat"]);
    let stdio = Stdio::terminal(slave.try_clone().unwrap()).unwrap();
    let session = Session {
        terminal: true,
        ..session(&guest, stdio)
    };
    let relay = Relay::open(session).unwrap();
    let running = thread::spawn(move || relay.run().unwrap());

    wait_until("terminal raw", || fakes::is_raw(&slave));
    guest.wait_for_request(Request::Resize(stream::Winsize {
        rows: 24,
        columns: 80,
    }));

    rustix::process::kill_process_group(guest.pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.join().unwrap().outcome, Outcome::Exited(137));
    assert!(!fakes::is_raw(&slave));
}
