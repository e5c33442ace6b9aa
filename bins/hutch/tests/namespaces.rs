//! Verbs about sandboxes ask for those of the namespace that they were told, before a daemon that is played.

#![allow(clippy::unwrap_used)]

use protocols::{
    blocking::{
        hutch::{
            InspectSandboxRequest, InspectSandboxResponse, ListSandboxesRequest,
            ListSandboxesResponse, SandboxInfo, VersionRequest, VersionResponse,
        },
        hutch_ttrpc::{Runtime, create_runtime},
    },
    revision::REVISION,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;
use ttrpc::{Server, TtrpcContext};

/// Two sandboxes with one id, each with a console of its own.
struct Twins {
    root: PathBuf,
}

impl Twins {
    fn of(&self, namespace: &str) -> Vec<SandboxInfo> {
        let all = ["blue", "green"].into_iter();
        let mine = all.filter(|own| namespace.is_empty() || *own == namespace);
        let info = |own: &str| SandboxInfo {
            id: "web".to_owned(),
            namespace: own.to_owned(),
            uid: format!("uid-{own}"),
            status: "ready".to_owned(),
            console_path: self.root.join(own).display().to_string(),
            ..Default::default()
        };
        mine.map(info).collect()
    }
}

impl Runtime for Twins {
    fn version(&self, _: &TtrpcContext, _: VersionRequest) -> ttrpc::Result<VersionResponse> {
        Ok(VersionResponse {
            revision: REVISION,
            oldest_revision: REVISION,
            ..Default::default()
        })
    }

    fn list_sandboxes(
        &self,
        _: &TtrpcContext,
        request: ListSandboxesRequest,
    ) -> ttrpc::Result<ListSandboxesResponse> {
        Ok(ListSandboxesResponse {
            sandboxes: self.of(&request.namespace),
            ..Default::default()
        })
    }

    fn inspect_sandbox(
        &self,
        _: &TtrpcContext,
        request: InspectSandboxRequest,
    ) -> ttrpc::Result<InspectSandboxResponse> {
        Ok(InspectSandboxResponse {
            sandbox: self.of(&request.namespace).into_iter().next().into(),
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
        for own in ["blue", "green"] {
            fs::write(root.path().join(own), format!("{own} boots\n")).unwrap();
        }
        let socket = root.path().join("hutchd.sock");
        let twins = Twins {
            root: root.path().to_owned(),
        };
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_runtime(Arc::new(twins)));
        server.start().unwrap();
        Self { root, server }
    }

    fn hutch(&self, words: &[&str]) -> String {
        said(self.root.path(), words)
    }

    fn close(self) {
        self.server.shutdown();
    }
}

fn said(root: &Path, words: &[&str]) -> String {
    let mut hutch = Command::new(env!("CARGO_BIN_EXE_hutch"));
    let output = hutch.arg("--root").arg(root).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn inspect_and_console_are_about_the_sandbox_of_their_namespace() {
    let house = House::open();

    for own in ["blue", "green"] {
        let text = house.hutch(&["--namespace", own, "sandbox", "inspect", "web"]);
        let info: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(info["namespace"], own, "{text}");
        let console = house.hutch(&["--namespace", own, "console", "web"]);
        assert_eq!(console, format!("{own} boots\n"));
    }
    house.close();
}

#[test]
fn a_list_of_sandboxes_is_of_one_namespace_or_names_each() {
    let house = House::open();
    let list = |words: &[&str]| house.hutch(&[&["--namespace", "green"], words].concat());

    let one = list(&["sandbox", "list"]);
    let all = list(&["sandbox", "list", "--all-namespaces"]);
    let none = house.hutch(&["sandbox", "list", "--quiet"]);

    let lines = |text: &str| -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().map(words).collect()
    };
    let one = lines(&one);
    assert_eq!(one[0][..2], ["ID", "UID"]);
    assert_eq!(one[1][..2], ["web", "uid-green"]);
    assert_eq!(one.len(), 2);
    let all = lines(&all);
    assert_eq!(all[0][..3], ["NAMESPACE", "ID", "UID"]);
    assert_eq!(all[1][..3], ["blue", "web", "uid-blue"]);
    assert_eq!(all[2][..3], ["green", "web", "uid-green"]);
    // The namespace of who names none.
    assert_eq!(none, "");
    house.close();
}
