//! The program itself: signals, exit codes, successors, terminals, and the daemon.

#![allow(clippy::unwrap_used)]

mod fakes;

use fakes::daemon::FakeDaemon;
use fakes::{FakeGuest, STARTING, wait_until};
use hutch_relay::StreamAddress;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};
use stream::{Outputs, Request, Winsize};

const SHELL: [&str; 2] = ["sh", "-c"];

fn guest(script: &str) -> FakeGuest {
    FakeGuest::run(Outputs::StdoutAndStderr, &[SHELL[0], SHELL[1], script])
}

/// A relay for the guest's process, with nothing on its files.
fn relay(guest: &FakeGuest) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hutch-relay"));
    command
        .arg("--stream")
        .arg(guest.socket())
        .arg("--hutchd")
        .arg(guest.path("hutchd.sock"))
        .args(["--container", "web"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn daemon(guest: &FakeGuest) -> FakeDaemon {
    FakeDaemon::listen(&guest.path("hutchd.sock"), 137)
}

fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("relay ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Starts it and waits until it says that it is ready, or what else it says.
fn started(mut command: Command) -> (Child, String) {
    let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut ready, writer) = std::io::pipe().unwrap();
    // Without close-on-exec, at the number that the argument names.
    let inherited = rustix::io::dup(&writer).unwrap();
    let child = command
        .arg("--ready-fd")
        .arg(inherited.as_raw_fd().to_string())
        .spawn()
        .unwrap();
    drop((writer, inherited, starting));
    let mut said = String::new();
    ready.read_to_string(&mut said).unwrap();
    (child, said)
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

#[test]
fn it_stands_for_its_process_and_ends_with_its_code() {
    let guest = guest("read line; echo $line; exit 42");
    let daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());

    let (mut child, said) = started(command);

    assert_eq!(said, "ready");
    let attached = daemon.heard.attached.lock().unwrap().clone();
    assert_eq!(attached[0].relay_pid, child.id());
    assert_eq!(attached[0].process.container_id, "web");
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "hello\n");
    assert_eq!(wait(&mut child).code(), Some(42));
    assert_eq!(daemon.exit_codes(), [42]);
}

#[test]
fn a_pipe_that_it_writes_to_has_no_reader_in_it() {
    let guest = guest("read line; exec yes");
    let _daemon = daemon(&guest);
    let fifo = guest.path("out");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    // As a shell's `1<>out`.
    let both = File::options().read(true).write(true).open(&fifo).unwrap();
    let mut command = relay(&guest);
    command.stdin(Stdio::piped()).stdout(both);
    let (mut child, said) = started(command);
    assert_eq!(said, "ready");

    let folder = format!("/proc/{}/fd", child.id());
    let readers = || {
        let fds = fs::read_dir(&folder).unwrap().map(|fd| fd.unwrap());
        let of_fifo = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == fifo));
        // proc(5): what it is open for are the permissions of the link.
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode();
        of_fifo.filter(|fd| mode(&fd.path()) & 0o400 != 0).count()
    };
    wait_until("it is no reader", || readers() == 0);
    // Nobody reads any more: its process finds the pipe broken, and the relay ends.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(wait(&mut child).code(), Some(128 + 13));
}

#[test]
fn it_stands_before_its_guest_has_answered_and_waits_for_it_as_long_as_there_is_a_vm() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let silent = UnixListener::bind(path("stream.sock")).unwrap();
    let daemon = FakeDaemon::listen(&path("hutchd.sock"), 137);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hutch-relay"));
    command
        .arg("--stream")
        .arg(path("stream.sock"))
        .arg("--hutchd")
        .arg(path("hutchd.sock"))
        .args(["--container", "web"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());

    let (mut child, said) = started(command);

    assert_eq!(said, "ready");
    let (mut connection, _) = silent.accept().unwrap();
    // It greets, and again after a second.
    for _ in 0..2 {
        assert_ne!(
            connection.read(&mut [0; 4096]).unwrap(),
            0,
            "it has given up"
        );
    }
    // The VM is gone.
    drop((connection, silent));
    fs::remove_file(path("stream.sock")).unwrap();
    assert_eq!(wait(&mut child).code(), Some(137));
    assert_eq!(daemon.exit_codes(), [137]);
}

#[test]
fn signals_are_forwarded() {
    let guest = guest("trap 'exit 9' TERM; echo; while true; do sleep 0.05; done");
    let _daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdout(Stdio::piped());
    let (mut child, _) = started(command);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();

    // Of no meaning without a code.
    kill_process(Pid::from_child(&child), Signal::URG).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();

    assert_eq!(wait(&mut child).code(), Some(9));
}

/// As the daemon does when the container is deleted.
fn dismiss(relay: &Child, exit_code: u8) {
    let pid = Pid::from_child(relay);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    proc::dismissal::send(pidfd.as_fd(), exit_code).unwrap();
}

#[test]
fn a_relay_whose_guest_never_tells_the_exit_ends_with_the_code_that_is_on_record() {
    let guest = guest("echo out; sleep 1000");
    let daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdout(Stdio::piped());
    let (mut child, _) = started(command);

    dismiss(&child, 137);

    assert_eq!(wait(&mut child).code(), Some(137));
    let mut text = String::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");
    assert_eq!(daemon.exit_codes(), [137]);
}

#[test]
fn a_relay_that_is_dismissed_believes_its_guest_more() {
    let guest = guest("read line; exit 9");
    let _daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdin(Stdio::piped());
    let (mut child, _) = started(command);

    dismiss(&child, 137);
    drop(child.stdin.take());

    assert_eq!(wait(&mut child).code(), Some(9));
}

/// Its container's cgroup would stay as long as its reader likes.
#[test]
fn a_relay_whose_reader_takes_nothing_goes_all_the_same_once_its_container_is_gone() {
    let guest = guest("exec cat /dev/zero");
    let _daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdout(Stdio::piped());
    let (mut child, _) = started(command);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();

    dismiss(&child, 137);

    assert_eq!(wait(&mut child).code(), Some(137));
}

#[test]
fn a_daemon_that_is_silent_does_not_hold_up_the_exit_code() {
    let guest = guest("read line; exit 6");
    let daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdin(Stdio::piped());
    let (mut child, said) = started(command);
    assert_eq!(said, "ready");
    drop(daemon);
    fs::remove_file(guest.path("hutchd.sock")).unwrap();
    let _silent = UnixListener::bind(guest.path("hutchd.sock")).unwrap();
    let begun = Instant::now();

    drop(child.stdin.take());

    assert_eq!(wait(&mut child).code(), Some(6));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_daemon_that_is_gone_does_not_hold_up_the_exit_code() {
    let guest = guest("read line; exit 6");
    let daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdin(Stdio::piped());
    let (mut child, _) = started(command);
    drop(daemon);

    drop(child.stdin.take());

    assert_eq!(wait(&mut child).code(), Some(6));
}

#[test]
fn without_a_daemon_it_is_not_ready_until_one_is_back() {
    let guest = guest("exit 8");
    let command = relay(&guest);
    let socket = guest.path("hutchd.sock");
    let late = thread::spawn(move || {
        // tidy: late on purpose, and not waited for: the relay has to look more than once
        thread::sleep(Duration::from_millis(300));
        FakeDaemon::listen(&socket, 0)
    });

    let (mut child, said) = started(command);

    assert_eq!(said, "ready");
    assert_eq!(wait(&mut child).code(), Some(8));
    let attached = late.join().unwrap().heard.attached.lock().unwrap().len();
    assert_eq!(attached, 1);
}

#[test]
fn a_lost_vm_ends_with_what_the_daemon_knows() {
    let mut guest = guest("sleep 1000");
    let daemon = daemon(&guest);
    let (mut child, _) = started(relay(&guest));

    guest.die();

    assert_eq!(wait(&mut child).code(), Some(137));
    assert_eq!(daemon.exit_codes(), [137]);
}

#[test]
fn without_a_guest_it_says_why_it_is_not_ready() {
    let guest = guest("exit 0");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hutch-relay"));
    command.arg("--stream").arg(guest.path("nothing.sock"));
    command.args(["--hutchd", "/nonexistent", "--container", "web"]);

    let (mut child, said) = started(command);

    let wanted = format!(
        "connect to stream {}: No such file or directory (os error 2)",
        guest.path("nothing.sock").display()
    );
    assert_eq!(said, wanted);
    assert_eq!(wait(&mut child).code(), Some(255));
}

#[test]
fn a_relay_that_is_told_nothing_ends_and_one_that_is_told_later_stands() {
    for (spelled, wanted) in [(true, ("ready", 7)), (false, ("", 255))] {
        let guest = guest("exit 7");
        let _daemon = daemon(&guest);
        let (reader, mut tell) = std::io::pipe().unwrap();
        // Without close-on-exec. Whoever else gets this end, too, keeps nobody waiting.
        let inherited = rustix::io::dup(&reader).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hutch-relay"));
        command.args(["--stream-fd", &inherited.as_raw_fd().to_string()]);
        command.arg("--hutchd").arg(guest.path("hutchd.sock"));
        command.args(["--container", "web"]);
        if spelled {
            let address = StreamAddress::spelled(guest.socket().to_str().unwrap(), 0);
            tell.write_all(address.as_bytes()).unwrap();
        }
        drop(tell);

        let (mut child, said) = started(command);

        assert_eq!(
            (&*said, wait(&mut child).code()),
            (wanted.0, Some(wanted.1))
        );
    }
}

#[test]
fn a_killed_relay_is_replaced_and_nothing_is_lost_or_repeated() {
    const LINES: u32 = 2_000_000;
    const KILLS: u32 = 5;
    let guest = guest(&format!("seq {LINES}; echo end >&2; exit 11"));
    let _daemon = daemon(&guest);
    let (out, err) = (guest.path("out"), guest.path("err"));
    let append = |path: &Path| {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    };
    let mut kills = 0;

    // Each is killed as soon as it has written something; the last one ends by itself.
    let status = loop {
        let mut command = relay(&guest);
        command.stdout(append(&out)).stderr(append(&err));
        command.args(["--stdout-from", &size(&out).to_string()]);
        command.args(["--stderr-from", &size(&err).to_string()]);
        let before = size(&out);
        let (mut child, said) = started(command);
        assert_eq!(said, "ready");
        if kills < KILLS {
            let mut ended = || child.try_wait().unwrap().is_some();
            wait_until("it writes", || size(&out) > before || ended());
            child.kill().unwrap();
            kills += 1;
        }
        let status = wait(&mut child);
        if status.signal() != Some(9) {
            break status;
        }
    };

    let wanted: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    assert_eq!(kills, KILLS);
    assert_eq!(status.code(), Some(11));
    assert!(fs::read_to_string(&out).unwrap() == wanted);
    assert_eq!(fs::read_to_string(&err).unwrap(), "end\n");
}

#[test]
fn a_killed_relay_loses_no_stdin() {
    const LINES: u32 = 200_000;
    let guest = guest("cat; exit 12");
    let _daemon = daemon(&guest);
    let (input, out) = (guest.path("in"), guest.path("out"));
    let text: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    fs::write(&input, &text).unwrap();
    let start = || {
        let mut command = relay(&guest);
        command.stdin(File::open(&input).unwrap());
        command.stdout(
            File::options()
                .create(true)
                .append(true)
                .open(&out)
                .unwrap(),
        );
        command.args([
            "--stdout-from",
            &size(&out).to_string(),
            "--stdin-from",
            "0",
        ]);
        started(command).0
    };
    let mut first = start();
    wait_until("it writes", || size(&out) > 100_000);
    first.kill().unwrap();
    wait(&mut first);

    let mut second = start();

    assert_eq!(wait(&mut second).code(), Some(12));
    assert!(fs::read_to_string(&out).unwrap() == text);
}

/// What arrives on a console socket.
fn receive_terminal(listener: &UnixListener) -> OwnedFd {
    let (peer, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut slices = [IoSliceMut::new(&mut name)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(&peer, &mut slices, &mut ancillary, flags).unwrap();
    assert!(name[..received.bytes].starts_with(b"/dev/pts/"));
    let fds = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.unwrap()
}

#[test]
fn a_terminal_is_sent_over_the_console_socket_and_its_size_follows() {
    let guest = FakeGuest::run(Outputs::Terminal, &["cat"]);
    let _daemon = daemon(&guest);
    let listener = UnixListener::bind(guest.path("console.sock")).unwrap();
    let mut command = relay(&guest);
    command.arg("--terminal").arg("--console-socket");
    command.arg(guest.path("console.sock"));
    let (mut child, said) = started(command);
    let mut terminal = File::from(receive_terminal(&listener));
    assert_eq!(said, "ready");

    terminal.write_all(b"\x03raw\n").unwrap();
    let mut echoed = [0; 5];
    terminal.read_exact(&mut echoed).unwrap();
    fakes::set_size(&terminal, 33, 99);
    guest.wait_for_request(Request::Resize(Winsize {
        rows: 33,
        columns: 99,
    }));
    drop(terminal);

    assert_eq!(&echoed, b"\x03raw\n");
    guest.wait_for_request(Request::Signal(1));
    assert_eq!(wait(&mut child).code(), Some(128 + 1));
}

/// A relay on a terminal of its own, once it is raw.
fn on_terminal(guest: &FakeGuest) -> (Child, OwnedFd, OwnedFd) {
    let (master, slave) = fakes::open_terminal();
    let mut command = relay(guest);
    command.arg("--terminal");
    command.stdin(slave.try_clone().unwrap());
    command.stdout(slave.try_clone().unwrap());
    let (child, said) = started(command);
    assert_eq!(said, "ready");
    wait_until("terminal raw", || fakes::is_raw(&slave));
    (child, master, slave)
}

#[test]
fn a_terminal_comes_back_as_it_was_after_an_exit() {
    let guest = FakeGuest::run(Outputs::Terminal, &["head", "-c", "1"]);
    let _daemon = daemon(&guest);
    let (mut child, master, slave) = on_terminal(&guest);

    File::from(master.try_clone().unwrap())
        .write_all(b"x")
        .unwrap();

    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(!fakes::is_raw(&slave));
}

#[test]
fn a_terminal_comes_back_as_it_was_after_a_deadly_signal() {
    for signal in [Signal::SEGV, Signal::ABORT, Signal::BUS] {
        let guest = FakeGuest::run(Outputs::Terminal, &["cat"]);
        let _daemon = daemon(&guest);
        let (mut child, _master, slave) = on_terminal(&guest);

        kill_process(Pid::from_child(&child), signal).unwrap();

        assert_eq!(wait(&mut child).signal(), Some(signal.as_raw()));
        assert!(!fakes::is_raw(&slave), "{signal:?}");
    }
}

#[test]
fn a_relay_at_rest_has_one_thread() {
    let guest = FakeGuest::run(
        Outputs::StdoutAndStderr,
        &["sh", "-c", "head -c 3000000 /dev/zero; cat"],
    );
    let _daemon = daemon(&guest);
    let mut command = relay(&guest);
    command.stdin(Stdio::piped());
    let (mut child, _) = started(command);

    let threads = format!("/proc/{}/task", child.id());
    let count = || fs::read_dir(&threads).unwrap().count();
    wait_until("one thread", || count() == 1);

    drop(child.stdin.take());
    assert_eq!(wait(&mut child).code(), Some(0));
}
