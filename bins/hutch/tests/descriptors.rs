//! What the programs that a command leaves behind have open: what is meant for them, and nothing of its caller's.
//!
//! `hutch` runs from a folder of its own, where scripts that tell what they have stand for daemon and relay.

#![allow(clippy::unwrap_used)]

use protocols::{
    blocking::{
        hutch::{ExecRequest, ExecResponse, VersionRequest, VersionResponse},
        hutch_ttrpc::{Runtime, create_runtime},
    },
    revision::REVISION,
};
use serde_json::json;
use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
};
use tempfile::TempDir;
use ttrpc::{Server, TtrpcContext};

/// It says which of the words after it are numbers of descriptors that it has.
const SCRIPT: &str = r#"#!/bin/sh
for word in "$@" "$KEPT"; do test -e "/proc/$$/fd/$word" && echo "$word"; done > "$0.has"
echo it ends at once >&2
exit 1
"#;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hutch = folder.path().join("hutch");
        let original = env!("CARGO_BIN_EXE_hutch");
        // The folder may be on another file system.
        if fs::hard_link(original, &hutch).is_err() {
            fs::copy(original, &hutch).unwrap();
        }
        for name in ["hutchd", "hutch-relay"] {
            let script = folder.path().join(name);
            fs::write(&script, SCRIPT).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A caller that keeps a descriptor open, as `exec 9>lock` does; and its number.
    fn hutch(&self, words: &[&str]) -> (Output, String) {
        let lock = fs::File::create(self.path("lock")).unwrap();
        // Without close-on-exec, and at a number that no shell takes for its own files.
        let kept = rustix::io::fcntl_dupfd_cloexec(&lock, 200).unwrap();
        rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
        let number = kept.as_raw_fd().to_string();
        let mut hutch = Command::new(self.path("hutch"));
        hutch.arg("--root").arg(self.path("r")).args(words);
        (hutch.env("KEPT", &number).output().unwrap(), number)
    }

    /// With a daemon that makes every exec.
    fn exec(&self) -> (Output, String) {
        fs::create_dir(self.path("r")).unwrap();
        let socket = self.path("r").join("hutchd.sock");
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_runtime(Arc::new(Obliging)));
        server.start().unwrap();
        let process = self.path("process.json");
        let text = json!({"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        fs::write(&process, text.to_string()).unwrap();
        let process = process.to_str().unwrap();
        let ran = self.hutch(&["exec", "-d", "--process", process, "web"]);
        server.shutdown();
        ran
    }

    fn has(&self, program: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(program).with_extension("has")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// It makes every exec.
struct Obliging;

impl Runtime for Obliging {
    fn version(&self, _: &TtrpcContext, _: VersionRequest) -> ttrpc::Result<VersionResponse> {
        Ok(VersionResponse {
            revision: REVISION,
            oldest_revision: REVISION,
            ..Default::default()
        })
    }

    fn exec(&self, _: &TtrpcContext, _: ExecRequest) -> ttrpc::Result<ExecResponse> {
        Ok(ExecResponse::default())
    }
}

#[test]
fn a_daemon_that_a_command_starts_has_nothing_of_its_callers() {
    let place = Place::new();

    let (output, _) = place.hutch(&["list"]);

    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("it ends at once"), "{said}");
    assert_eq!(place.has("hutchd"), [""; 0]);
}

#[test]
fn a_relay_has_the_pipes_that_it_is_told_of_and_nothing_of_its_callers() {
    let place = Place::new();

    let (output, kept) = place.exec();

    let has = place.has("hutch-relay");
    assert_eq!(has.len(), 2, "--ready-fd and --stream-fd: {output:?}");
    assert!(!has.contains(&kept), "{has:?} with {kept}");
}

#[test]
fn a_relay_that_cannot_be_run_is_named_with_the_reason() {
    let place = Place::new();
    let relay = place.path("hutch-relay");
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o644)).unwrap();

    let (output, _) = place.exec();

    let said = String::from_utf8(output.stderr).unwrap();
    let why = format!("start {}: Permission denied (os error 13)", relay.display());
    assert!(said.contains(&why), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!output.status.success());
}
