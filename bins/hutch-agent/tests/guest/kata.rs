//! The first interface, as a stock host uses it.

use super::{
    link::{Link, deadline},
    vm::{LIMIT, Vm, Wanted, asked, lay_rootfs},
};
use protocols::asynchronous::{
    agent::{
        CloseStdinRequest, CreateContainerRequest, CreateSandboxRequest, ExecProcessRequest,
        ReadStreamRequest, RemoveContainerRequest, SignalProcessRequest, StartContainerRequest,
        Storage, TtyWinResizeRequest, WaitProcessRequest, WriteStreamRequest,
    },
    agent_ttrpc::AgentServiceClient,
    oci::{Linux, LinuxCapabilities, LinuxNamespace, Mount, Process, Root, Spec, User},
};
use std::time::Duration;
use stream::Padding;
use ttrpc::{Code, Request, context};

const SHARED: &str = "/run/kata-containers/shared/containers";
const PROTOCOL: &str = include_str!("../../../../crates/protocols/proto/agent.proto");
const HEALTH: &str = include_str!("../../../../crates/protocols/proto/health.proto");

fn process(args: &[&str], terminal: bool) -> Process {
    Process {
        Terminal: terminal,
        User: Some(User::default()).into(),
        Args: args.iter().map(|&arg| arg.to_owned()).collect(),
        Env: vec!["PATH=/bin".to_owned()],
        Cwd: "/".to_owned(),
        Capabilities: Some(LinuxCapabilities::default()).into(),
        ..Process::default()
    }
}

fn create(id: &str, args: &[&str]) -> CreateContainerRequest {
    let namespaces = ["ipc", "uts", "mount"].map(|kind| LinuxNamespace {
        Type: kind.to_owned(),
        ..LinuxNamespace::default()
    });
    let proc = Mount {
        destination: "/proc".to_owned(),
        source: "proc".to_owned(),
        type_: "proc".to_owned(),
        ..Mount::default()
    };
    let pts = Mount {
        destination: "/dev/pts".to_owned(),
        source: "devpts".to_owned(),
        type_: "devpts".to_owned(),
        options: vec!["newinstance".to_owned(), "ptmxmode=0666".to_owned()],
        ..Mount::default()
    };
    let spec = Spec {
        Version: "1.0.2".to_owned(),
        Process: Some(process(args, false)).into(),
        Root: Some(Root {
            Path: format!("{SHARED}/c/1"),
            ..Root::default()
        })
        .into(),
        Hostname: "of-the-host".to_owned(),
        Mounts: vec![proc, pts],
        Linux: Some(Linux {
            Namespaces: namespaces.to_vec(),
            ..Linux::default()
        })
        .into(),
        ..Spec::default()
    };
    CreateContainerRequest {
        container_id: id.to_owned(),
        exec_id: id.to_owned(),
        OCI: Some(spec).into(),
        ..CreateContainerRequest::default()
    }
}

/// Reads stdout to its end.
async fn read_all(kata: &AgentServiceClient, id: &str, exec: &str) -> String {
    let request = ReadStreamRequest {
        container_id: id.to_owned(),
        exec_id: exec.to_owned(),
        len: 32_768,
        ..ReadStreamRequest::default()
    };
    let mut all = Vec::new();
    loop {
        match kata.read_stdout(deadline(), &request).await {
            Ok(answer) => all.extend(answer.data),
            Err(ttrpc::Error::RpcStatus(status)) => {
                assert_eq!(status.code(), Code::OUT_OF_RANGE, "{}", status.message());
                return String::from_utf8(all).unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn wait(kata: &AgentServiceClient, id: &str, exec: &str) -> i32 {
    let request = WaitProcessRequest {
        container_id: id.to_owned(),
        exec_id: exec.to_owned(),
        ..WaitProcessRequest::default()
    };
    kata.wait_process(deadline(), &request)
        .await
        .unwrap()
        .status
}

async fn guest() -> (Vm, Link) {
    let share = tempfile::tempdir().unwrap();
    lay_rootfs(&share.path().join("c/1"));
    let vm = Vm::boot(Wanted {
        share: Some(share),
        ..Wanted::default()
    });
    let link = Link::open(&vm, Padding::None).await;
    let storage = Storage {
        driver: "virtio-fs".to_owned(),
        source: "hutch".to_owned(),
        fstype: "virtiofs".to_owned(),
        mount_point: SHARED.to_owned(),
        ..Storage::default()
    };
    let request = CreateSandboxRequest {
        hostname: "sandbox".to_owned(),
        sandbox_id: "s".to_owned(),
        storages: vec![storage],
        ..CreateSandboxRequest::default()
    };
    link.kata
        .create_sandbox(deadline(), &request)
        .await
        .unwrap();
    (vm, link)
}

#[tokio::test]
async fn a_stock_host_runs_a_container_with_stdin_and_an_exec_with_a_terminal() {
    if !asked() {
        return;
    }
    let (_vm, link) = guest().await;
    let kata = &link.kata;
    let id = || "web".to_owned();

    kata.create_container(
        deadline(),
        &create("web", &["/bin/sh", "-c", "hostname; cat; exit 6"]),
    )
    .await
    .unwrap();
    let start = StartContainerRequest {
        container_id: id(),
        ..Default::default()
    };
    kata.start_container(deadline(), &start).await.unwrap();
    let exec = ExecProcessRequest {
        container_id: id(),
        exec_id: "tty".to_owned(),
        process: Some(process(&["/bin/sh"], true)).into(),
        ..Default::default()
    };
    kata.exec_process(deadline(), &exec).await.unwrap();
    let size = TtyWinResizeRequest {
        container_id: id(),
        exec_id: "tty".to_owned(),
        row: 33,
        column: 101,
        ..Default::default()
    };
    kata.tty_win_resize(deadline(), &size).await.unwrap();
    let keys = WriteStreamRequest {
        container_id: id(),
        exec_id: "tty".to_owned(),
        data: b"stty size; exit 4\n".to_vec(),
        ..Default::default()
    };
    assert_eq!(kata.write_stdin(deadline(), &keys).await.unwrap().len, 18);
    assert!(read_all(kata, "web", "tty").await.contains("33 101"));
    assert_eq!(wait(kata, "web", "tty").await, 4);

    let line = WriteStreamRequest {
        container_id: id(),
        data: b"a line\n".to_vec(),
        ..Default::default()
    };
    kata.write_stdin(deadline(), &line).await.unwrap();
    let close = CloseStdinRequest {
        container_id: id(),
        exec_id: id(),
        ..Default::default()
    };
    kata.close_stdin(deadline(), &close).await.unwrap();
    assert_eq!(read_all(kata, "web", "").await, "sandbox\na line\n");
    assert_eq!(wait(kata, "web", "web").await, 6);
    let remove = RemoveContainerRequest {
        container_id: id(),
        ..Default::default()
    };
    kata.remove_container(deadline(), &remove).await.unwrap();
}

#[tokio::test]
async fn a_stock_hosts_signals_reach_an_init_without_handlers() {
    if !asked() {
        return;
    }
    let (_vm, link) = guest().await;
    let kata = &link.kata;

    for (id, signal) in [("term", 15), ("kill", 9)] {
        kata.create_container(deadline(), &create(id, &["/bin/sleep", "1000"]))
            .await
            .unwrap();
        let start = StartContainerRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        kata.start_container(deadline(), &start).await.unwrap();
        let request = SignalProcessRequest {
            container_id: id.to_owned(),
            signal,
            ..Default::default()
        };
        kata.signal_process(deadline(), &request).await.unwrap();
        assert_eq!(wait(kata, id, "").await, 137, "{id}");
    }
}

#[tokio::test]
async fn all_44_calls_answer() {
    if !asked() {
        return;
    }
    let (_vm, link) = guest().await;
    let calls =
        [("grpc.AgentService", PROTOCOL), ("grpc.Health", HEALTH)].map(|(service, proto)| {
            let rpcs = proto
                .lines()
                .filter_map(|line| line.trim().strip_prefix("rpc "));
            rpcs.map(move |rpc| (service, rpc.split('(').next().unwrap()))
        });
    let calls: Vec<_> = calls.into_iter().flatten().collect();
    assert_eq!(calls.len(), 44);

    // The last word of the sandbox, which another test says.
    for (service, method) in calls.into_iter().filter(|call| call.1 != "DestroySandbox") {
        // One waits, as it should; the others have all the time that a busy machine takes.
        let limit = match method {
            "GetOOMEvent" => Duration::from_millis(500),
            _ => LIMIT,
        };
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: context::with_duration(limit).timeout_nano,
            ..Request::default()
        };
        let answer = tokio::time::timeout(LIMIT, link.client.request(request))
            .await
            .unwrap();
        let status = match answer {
            Ok(response) => response.status.into_option().unwrap_or_default(),
            Err(ttrpc::Error::RpcStatus(status)) => status,
            // It waits, as it should; nothing has run out of memory.
            Err(_) if method == "GetOOMEvent" => continue,
            Err(other) => panic!("{method}: {other:?}"),
        };
        // What the generated code says of a call that has no row.
        assert!(
            !status.message().starts_with(&format!("/{service}/")),
            "{method}: {status:?}"
        );
        if status.code() == Code::UNIMPLEMENTED {
            assert!(status.message().contains(method), "{status:?}");
        }
    }
}
