//! `hutch exec` in the foreground, before a daemon that is played.

#![allow(clippy::unwrap_used)]

use proc::dismissal;
use protocols::{
    blocking::{
        hutch::{
            ExecRequest, ExecResponse, ExitedRequest, ExitedResponse, StreamAddress,
            VersionRequest, VersionResponse,
        },
        hutch_ttrpc::{Runtime, create_runtime},
    },
    revision::REVISION,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
};
use serde_json::json;
use std::{
    fs,
    os::{fd::AsFd, unix::net::UnixListener},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use ttrpc::{Server, TtrpcContext};

/// What the record says of the exec's end.
const CODE: u8 = 137;

/// Its container is deleted in the instant in which the exec is answered, and the guest never says a word.
struct Deleting {
    stream: PathBuf,
    /// Of whoever asks, while it waits for the answer.
    threads: Arc<AtomicUsize>,
    caller: Caller,
}

/// What whoever asks does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Waits,
    IsStopped,
}

impl Runtime for Deleting {
    fn version(&self, _: &TtrpcContext, _: VersionRequest) -> ttrpc::Result<VersionResponse> {
        Ok(VersionResponse {
            revision: REVISION,
            oldest_revision: REVISION,
            ..Default::default()
        })
    }

    fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ExecResponse> {
        let pid = Pid::from_raw(request.relay_pid.cast_signed()).unwrap();
        let threads = fs::read_dir(format!("/proc/{}/task", request.relay_pid)).unwrap();
        self.threads.store(threads.count(), Ordering::SeqCst);
        let relay = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        if self.caller == Caller::IsStopped {
            pidfd_send_signal(&relay, Signal::STOP).unwrap();
            let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
            waitid(WaitId::PidFd(relay.as_fd()), stopped).unwrap();
        }
        dismissal::send(relay.as_fd(), CODE).unwrap();
        let stream = StreamAddress {
            socket: self.stream.display().to_string(),
            ..Default::default()
        };
        Ok(ExecResponse {
            stream: Some(stream).into(),
            ..Default::default()
        })
    }

    fn exited(&self, _: &TtrpcContext, _: ExitedRequest) -> ttrpc::Result<ExitedResponse> {
        Ok(ExitedResponse::default())
    }
}

/// Who does not end by itself is ended, and its status says so.
fn finish(mut hutch: Child) -> Output {
    let pid = Pid::from_child(&hutch);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap() == 0 {
        hutch.kill().unwrap();
    }
    hutch.wait_with_output().unwrap()
}

/// And how many threads it had when it asked.
fn exec(caller: Caller) -> (Output, usize) {
    let root = tempfile::tempdir().unwrap();
    let stream = root.path().join("p1.sock");
    let _silent = UnixListener::bind(&stream).unwrap();
    let socket = root.path().join("hutchd.sock");
    let threads = Arc::<AtomicUsize>::default();
    let played = Deleting {
        stream,
        threads: threads.clone(),
        caller,
    };
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .unwrap()
        .register_service(create_runtime(Arc::new(played)));
    server.start().unwrap();
    let process = root.path().join("process.json");
    let text = json!({"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    fs::write(&process, text.to_string()).unwrap();

    let mut hutch = Command::new(env!("CARGO_BIN_EXE_hutch"));
    hutch.arg("--root").arg(root.path());
    hutch.arg("exec").arg("--process").arg(&process).arg("web");
    hutch
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = finish(hutch.spawn().unwrap());
    server.shutdown();
    (output, threads.load(Ordering::SeqCst))
}

#[test]
fn an_exec_whose_container_goes_before_it_relays_ends_with_what_is_on_record() {
    let (output, _) = exec(Caller::Waits);

    assert_eq!(output.status.code(), Some(i32::from(CODE)), "{output:?}");
}

/// It has its container's cgroup, which a deletion takes away.
#[test]
fn an_exec_that_was_stopped_is_woken_when_its_container_goes() {
    let (output, _) = exec(Caller::IsStopped);

    assert_eq!(output.status.code(), Some(i32::from(CODE)), "{output:?}");
}

/// One that did not hear a signal for it would be enough to lose it.
#[test]
fn who_stands_for_a_process_has_no_thread_beside() {
    let (output, threads) = exec(Caller::Waits);

    assert_eq!(threads, 1, "{output:?}");
}
