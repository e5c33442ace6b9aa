//! exec: a further program in a running container.

mod cgroup;

use super::Place;
use crate::{
    args,
    bundle::Bundle,
    daemon::{Daemon, soon},
    verbs::{fresh_key, relay},
};
use anyhow::{Context as _, Result, bail};
use hutch_relay::HostProcess;
use protocols::asynchronous::hutch::{ExecRequest, StateRequest, StreamAddress};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// The highest number of a user or a group, as runc has it.
const NUMBER_MAX: u32 = i32::MAX.cast_unsigned();

pub fn exec(at: &Place, exec: args::Exec) -> Result<u8> {
    super::lifecycle::refuse_preserved_fds(exec.preserve_fds)?;
    let cgroup = cgroup::below(&exec.cgroup)?;
    hutch_relay::hold_dismissal()?;
    let (pid_file, socket) = (exec.pid_file.as_deref(), exec.console_socket.as_deref());
    relay::check_files(pid_file, socket)?;
    let mut daemon = at.daemon()?;
    let process = process(at, &mut daemon, &exec)?;
    check(&process)?;
    let terminal = process["terminal"].as_bool().unwrap_or(false);
    relay::check_terminal(terminal, exec.detach, socket)?;
    let exec_id = fresh_key();
    let stands = relay::Stands {
        process: at.process(&exec.id, &exec_id),
        terminal,
        console_socket: socket,
        pid_file,
        oom_note: None,
    };
    let request = ExecRequest {
        key: fresh_key(),
        process: Some(at.process(&exec.id, &exec_id)).into(),
        process_json: serde_json::to_vec(&process).context("process")?,
        cgroup,
        ..Default::default()
    };
    if exec.detach {
        let waiting = relay::prepare(&daemon, stands)?;
        let relay = waiting.relay()?;
        waiting.stand(&begin(at, &mut daemon, request, relay)?)?;
        return Ok(0);
    }
    let myself = relay::myself()?;
    let stream = begin(at, &mut daemon, request, myself)?;
    if let Some(path) = pid_file {
        // Nobody else is told who stands for it.
        relay::sit(at, &mut daemon, stands.process.clone(), myself);
        relay::write_pid_file(path, myself.pid)?;
    }
    relay::foreground(at, &mut daemon, stands, &stream)
}

/// Has the process made, for which `relay` stands; its stream is there to be read.
fn begin(
    at: &Place,
    daemon: &mut Daemon,
    request: ExecRequest,
    relay: HostProcess,
) -> Result<StreamAddress> {
    let request = ExecRequest {
        relay_pid: relay.pid,
        relay_start_time: relay.start_time,
        ..request
    };
    let begun = daemon.ask(async |client| client.exec(soon(), &request).await)?;
    at.log.warn_of_guest(&begun.warnings);
    Ok(begun.stream.unwrap_or_default())
}

/// The process object: from --process, or the init's with what the flags change.
fn process(at: &Place, daemon: &mut Daemon, exec: &args::Exec) -> Result<Value> {
    if let Some(file) = &exec.process {
        return from_file(file);
    }
    let request = StateRequest {
        namespace: at.namespace.clone(),
        container_id: exec.id.clone(),
        ..Default::default()
    };
    let state = daemon.ask(async |client| client.state(soon(), &request).await);
    let asked = ("state of container", exec.id.as_str());
    let state = state.map_err(|why| super::unnamed(why, asked))?;
    let bundle = Bundle::read(Path::new(&state.bundle))?;
    let init = bundle
        .process()
        .context("the container's config.json has no process")?;
    changed(init.clone(), exec)
}

/// What needs no guest to be found wrong, in runc's words.
fn check(process: &Value) -> Result<()> {
    let words = |name: &str| process[name].as_array().map_or(&[][..], Vec::as_slice);
    if words("args").is_empty() {
        bail!("process args cannot be empty");
    }
    let cwd = process["cwd"].as_str().unwrap_or_default();
    if cwd.is_empty() {
        bail!("Cwd property must not be empty");
    }
    if !cwd.starts_with('/') {
        bail!("Cwd must be an absolute path");
    }
    let mut env = words("env").iter().filter_map(Value::as_str);
    match env.find(|entry| !entry.contains('=')) {
        Some(entry) => bail!("invalid environment variable: {entry:?}"),
        None => Ok(()),
    }
}

fn from_file(file: &Path) -> Result<Value> {
    let about = || format!("process file {}", file.display());
    let bytes = fs::read(file).with_context(about)?;
    let mut process: Value = serde_json::from_slice(&bytes).with_context(about)?;
    if !process.is_object() {
        bail!("{}: it is not an object", about());
    }
    // Who names nobody means root, as with runc.
    if process["user"].is_null() {
        process["user"] = json!({"uid": 0, "gid": 0});
    }
    Ok(process)
}

fn changed(mut process: Value, exec: &args::Exec) -> Result<Value> {
    process["args"] = json!(exec.command);
    process["terminal"] = json!(exec.tty);
    if !exec.tty {
        process
            .as_object_mut()
            .context("process is not an object")?
            .remove("consoleSize");
    }
    // An empty one is none, as with runc.
    if let Some(cwd) = exec.cwd.as_deref().filter(|cwd| !cwd.is_empty()) {
        process["cwd"] = json!(cwd);
    }
    if exec.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    for (name, said) in [
        ("selinuxLabel", &exec.process_label),
        ("apparmorProfile", &exec.apparmor),
    ] {
        if let Some(said) = said.as_deref().filter(|said| !said.is_empty()) {
            process[name] = json!(said);
        }
    }
    append(
        &mut process,
        "/env",
        exec.env.iter().map(|entry| json!(entry)),
    );
    if let Some(user) = &exec.user {
        set_user(&mut process, user)?;
    }
    if !exec.additional_gids.is_empty() {
        let about = "--additional-gids";
        let gids = exec
            .additional_gids
            .iter()
            .map(|gid| number(&gid.to_string()));
        let gids = gids.collect::<Result<Vec<_>>>().context(about)?;
        process["user"]["additionalGids"] = json!(gids);
    }
    for set in ["bounding", "effective", "permitted"] {
        let caps = exec.cap.iter().map(|cap| json!(cap));
        append(&mut process, &format!("/capabilities/{set}"), caps);
    }
    Ok(process)
}

/// Appends to the list at `pointer`, making it where its parent exists.
fn append(process: &mut Value, pointer: &str, more: impl Iterator<Item = Value>) {
    let more: Vec<Value> = more.collect();
    if more.is_empty() {
        return;
    }
    let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    if let Some(parent) = process.pointer_mut(parent) {
        if parent[name].is_null() {
            parent[name] = json!([]);
        }
        if let Some(list) = parent[name].as_array_mut() {
            list.extend(more);
        }
    }
}

fn set_user(process: &mut Value, user: &str) -> Result<()> {
    let (uid, gid) = match user.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (user, None),
    };
    let about = || format!("--user {user:?}");
    process["user"]["uid"] = json!(number(uid).with_context(about)?);
    if let Some(gid) = gid {
        process["user"]["gid"] = json!(number(gid).with_context(about)?);
    }
    Ok(())
}

/// Of a user or a group.
fn number(text: &str) -> Result<u32> {
    match text.parse::<i128>() {
        Ok(found) if (0..=NUMBER_MAX.into()).contains(&found) => Ok(found as u32),
        Ok(_) => bail!("{text} is out of range: ids are 0 to {NUMBER_MAX}"),
        Err(_) => bail!("{text:?} is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;

    fn exec(words: &[&str]) -> args::Exec {
        let words = ["hutch", "exec"].iter().chain(words);
        match Cli::parse_from(words).verb {
            Verb::Exec(exec) => exec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exec_inherits_from_the_init_what_no_flag_changes() {
        let init = json!({
            "terminal": true, "cwd": "/", "args": ["sh"], "env": ["A=1"],
            "user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": ["CAP_KILL"]},
        });
        let flags = exec(&[
            "--env",
            "B=2",
            "-e",
            "C=3",
            "--user",
            "7:8",
            "--cap",
            "CAP_CHOWN",
            "web",
            "ls",
            "-l",
        ]);

        let process = changed(init, &flags).unwrap();

        assert_eq!(process["args"], json!(["ls", "-l"]));
        assert_eq!(process["terminal"], json!(false));
        assert_eq!(process["cwd"], json!("/"));
        assert_eq!(process["env"], json!(["A=1", "B=2", "C=3"]));
        assert_eq!(process["user"], json!({"uid": 7, "gid": 8}));
        assert_eq!(
            process["capabilities"]["bounding"],
            json!(["CAP_KILL", "CAP_CHOWN"])
        );
        assert_eq!(process["capabilities"]["effective"], json!(["CAP_CHOWN"]));
    }

    #[test]
    fn a_label_and_a_profile_of_an_exec_stand_for_those_of_the_init() {
        let init = json!({"selinuxLabel": "a:b", "apparmorProfile": "loose"});
        let asked = exec(&[
            "--process-label",
            "c:d",
            "--apparmor",
            "strict",
            "web",
            "id",
        ]);
        let empty = exec(&["--process-label", "", "--apparmor=", "web", "id"]);

        let (asked, empty) = (
            changed(init.clone(), &asked).unwrap(),
            changed(init, &empty).unwrap(),
        );

        assert_eq!(asked["selinuxLabel"], "c:d");
        assert_eq!(asked["apparmorProfile"], "strict");
        assert_eq!(empty["selinuxLabel"], "a:b");
        assert_eq!(empty["apparmorProfile"], "loose");
    }

    #[test]
    fn a_process_that_could_not_run_is_refused_before_the_guest_is_asked() {
        let good = json!({"args": ["id"], "cwd": "/", "env": ["A=1"]});
        assert!(check(&good).is_ok());

        for (name, wrong, said) in [
            ("args", json!([]), "args cannot be empty"),
            ("cwd", json!(null), "must not be empty"),
            ("cwd", json!("tmp"), "must be an absolute path"),
            ("env", json!(["A"]), "invalid environment variable: \"A\""),
        ] {
            let mut bad = good.clone();
            bad[name] = wrong;
            let why = check(&bad).unwrap_err().to_string();
            assert!(why.contains(said), "{name}: {why}");
        }
    }

    #[test]
    fn a_user_that_is_no_number_is_refused() {
        let flags = exec(&["--user", "root", "web", "id"]);

        assert!(changed(json!({"user": {}}), &flags).is_err());
        assert_eq!(number("2147483647").unwrap(), NUMBER_MAX);
        for wrong in ["-1", "2147483648", "4294967295"] {
            let why = number(wrong).unwrap_err().to_string();
            assert!(why.contains("ids are 0 to 2147483647"), "{why}");
        }
    }
}
