//! What a guest could not honour, and what failed beside it, is said by whoever asked for it, before a daemon that is played.

#![allow(clippy::unwrap_used)]

use protocols::{
    blocking::{
        hutch::{
            SandboxRequest, SandboxResponse, UpdateRequest, UpdateResponse, VersionRequest,
            VersionResponse,
        },
        hutch_ttrpc::{Runtime, create_runtime},
    },
    revision::REVISION,
};
use serde_json::{Value, json};
use std::{
    fs,
    process::{Command, Output},
    sync::Arc,
};
use tempfile::TempDir;
use ttrpc::{Server, TtrpcContext};

struct Warning;

impl Runtime for Warning {
    fn version(&self, _: &TtrpcContext, _: VersionRequest) -> ttrpc::Result<VersionResponse> {
        Ok(VersionResponse {
            revision: REVISION,
            oldest_revision: REVISION,
            ..Default::default()
        })
    }

    fn update(&self, _: &TtrpcContext, _: UpdateRequest) -> ttrpc::Result<UpdateResponse> {
        Ok(UpdateResponse {
            warnings: vec![
                "network: ignored".to_owned(),
                "two\nlines \u{1b}[2J".to_owned(),
            ],
            ..Default::default()
        })
    }

    fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: SandboxRequest,
    ) -> ttrpc::Result<SandboxResponse> {
        Ok(SandboxResponse {
            warnings: vec![format!(
                "start container \"web\" of {}: its hook",
                request.sandbox
            )],
            ..Default::default()
        })
    }
}

struct House {
    root: TempDir,
    server: Server,
}

impl House {
    fn open() -> Self {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("hutchd.sock");
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_runtime(Arc::new(Warning)));
        server.start().unwrap();
        Self { root, server }
    }

    /// It is carried out, and says nothing on standard output.
    fn update(&self, flags: &[&str]) -> Output {
        let mut hutch = Command::new(env!("CARGO_BIN_EXE_hutch"));
        hutch.arg("--root").arg(self.root.path()).args(flags);
        let output = hutch.args(["update", "--pids-limit", "7", "web"]);
        let output = output.output().unwrap();
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
        output
    }

    fn close(self) -> TempDir {
        self.server.shutdown();
        self.root
    }
}

#[test]
fn a_warning_is_one_line_on_standard_error_and_changes_no_exit_code() {
    let house = House::open();

    let output = house.update(&[]);
    drop(house.close());

    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "hutch: warning: in the guest: network: ignored\n\
         hutch: warning: in the guest: two; lines \\u{1b}[2J\n"
    );
}

#[test]
fn a_warning_goes_into_the_log_that_was_asked_for_and_nowhere_else() {
    let house = House::open();
    let log = house.root.path().join("log");
    let path = log.to_str().unwrap();

    let outputs =
        ["text", "json"].map(|format| house.update(&["--log", path, "--log-format", format]));
    let _root = house.close();

    for output in outputs {
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(
        lines[0],
        "level=warning msg=\"in the guest: network: ignored\""
    );
    let entry: Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(entry["level"], "warning");
    assert_eq!(entry["msg"], "in the guest: network: ignored");
    assert!(entry["time"].as_str().unwrap().ends_with('Z'), "{entry}");
}

/// Its caller's daemon takes no creation here: the warning comes before anything is asked for.
#[test]
fn a_cgroup_that_is_named_as_systemd_does_is_warned_of() {
    let house = House::open();
    let bundle = tempfile::tempdir().unwrap();
    let config = json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["true"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "root": { "path": "rootfs" },
        "linux": { "cgroupsPath": "system.slice:hutch:web" },
    });
    fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();

    let mut hutch = Command::new(env!("CARGO_BIN_EXE_hutch"));
    hutch.arg("--root").arg(house.root.path());
    hutch.args(["create", "--bundle"]).arg(bundle.path());
    let output = hutch.arg("web").output().unwrap();
    let _root = house.close();

    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "hutch: warning: linux.cgroupsPath \"system.slice:hutch:web\": cgroups are made without systemd";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn a_hook_that_failed_is_said_by_who_starts_its_sandbox() {
    let house = House::open();
    let mut hutch = Command::new(env!("CARGO_BIN_EXE_hutch"));
    hutch.arg("--root").arg(house.root.path());

    let output = hutch.args(["sandbox", "start", "pod"]).output().unwrap();
    drop(house.close());

    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "hutch: warning: start container \"web\" of pod: its hook\n"
    );
}
