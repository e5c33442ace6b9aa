//! create, start, run, delete.

use super::{Place, fresh_key};
use crate::{
    args,
    bundle::Bundle,
    daemon::{Daemon, soon},
    verbs::relay,
};
use anyhow::{Result, anyhow, bail};
use hutch_relay::HostProcess;
use protocols::asynchronous::hutch::{CreateRequest, DeleteRequest, StartRequest, StreamAddress};

/// conmon's name for it; Podman looks for it in the bundle.
const OOM_NOTE: &str = "oom";

pub fn refuse_preserved_fds(count: u32) -> Result<()> {
    if count > 0 {
        bail!("--preserve-fds {count}: a file descriptor cannot enter a virtual machine");
    }
    Ok(())
}

/// Creates the container, for whose init `relay` stands; its stream is there to be read.
fn create_container(
    at: &Place,
    daemon: &mut Daemon,
    creation: &args::Creation,
    bundle: &Bundle,
    relay: HostProcess,
) -> Result<StreamAddress> {
    let request = CreateRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: creation.id.clone(),
        bundle: bundle.folder.display().to_string(),
        config_json: bundle.config_json.clone(),
        sandbox_id: creation.sandbox.clone().unwrap_or_default(),
        cgroups_path: bundle.cgroups_path(),
        relay_pid: relay.pid,
        relay_start_time: relay.start_time,
        ..Default::default()
    };
    let created = daemon.ask(async |client| client.create(soon(), &request).await)?;
    at.log.warn_of_guest(&created.warnings);
    Ok(created.stream.unwrap_or_default())
}

/// What can be refused, or is in vain, before anything is made.
fn check(at: &Place, creation: &args::Creation, bundle: &Bundle, detached: bool) -> Result<()> {
    refuse_preserved_fds(creation.preserve_fds)?;
    let path = bundle.cgroups_path();
    if path.contains(':') {
        at.log.warn(&format!(
            "linux.cgroupsPath {path:?}: cgroups are made without systemd, ignored: what stands for the container stays in its caller's cgroup"
        ));
    }
    let (pid_file, socket) = (&creation.pid_file, creation.console_socket.as_deref());
    relay::check_terminal(bundle.terminal(), detached, socket)?;
    relay::check_files(pid_file.as_deref(), socket)
}

pub fn create(at: &Place, create: args::Create) -> Result<u8> {
    let creation = create.creation;
    let bundle = Bundle::read(&creation.bundle)?;
    check(at, &creation, &bundle, true)?;
    let mut daemon = at.daemon()?;
    let waiting = relay::prepare(&daemon, stands(at, &creation, &bundle))?;
    let stream = create_container(at, &mut daemon, &creation, &bundle, waiting.relay()?)?;
    undone(at, &creation.id, waiting.stand(&stream))?;
    Ok(0)
}

fn stands<'a>(at: &Place, creation: &'a args::Creation, bundle: &Bundle) -> relay::Stands<'a> {
    relay::Stands {
        process: at.process(&creation.id, ""),
        terminal: bundle.terminal(),
        console_socket: creation.console_socket.as_deref(),
        pid_file: creation.pid_file.as_deref(),
        oom_note: Some(bundle.folder.join(OOM_NOTE)),
    }
}

/// A creation whose relay cannot be left behind is taken back.
fn undone<T>(at: &Place, id: &str, outcome: Result<T>) -> Result<T> {
    outcome.map_err(|why| match delete(at, id, true) {
        Ok(_) => why,
        Err(also) => anyhow!("{why:#}; and it could not be taken back: {also:#}"),
    })
}

fn start_in(at: &Place, daemon: &mut Daemon, id: &str) -> Result<()> {
    let request = StartRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        ..Default::default()
    };
    let started = daemon.ask(async |client| client.start(soon(), &request).await)?;
    at.log.warn_beside(&started.warnings);
    Ok(())
}

pub fn start(at: &Place, id: &str) -> Result<u8> {
    start_in(at, &mut at.daemon()?, id)?;
    Ok(0)
}

pub fn run(at: &Place, run: args::Run) -> Result<u8> {
    let creation = &run.creation;
    let bundle = Bundle::read(&creation.bundle)?;
    check(at, creation, &bundle, run.detach)?;
    hutch_relay::hold_dismissal()?;
    let mut daemon = at.daemon()?;
    let id = &creation.id;
    let stands = stands(at, creation, &bundle);
    if run.detach {
        let waiting = relay::prepare(&daemon, stands)?;
        let stream = create_container(at, &mut daemon, creation, &bundle, waiting.relay()?)?;
        let standing = waiting.stand(&stream);
        undone(
            at,
            id,
            standing.and_then(|()| start_in(at, &mut daemon, id)),
        )?;
        return Ok(0);
    }
    let myself = relay::myself()?;
    let stream = create_container(at, &mut daemon, creation, &bundle, myself)?;
    let started = stand_and_start(at, &mut daemon, &stands, myself);
    undone(at, id, started)?;
    let code = relay::foreground(at, &mut daemon, stands, &stream)?;
    match run.keep {
        // Its code is worth more than what is left of it.
        false => {
            if let Err(why) = delete_in(at, &mut daemon, id, true) {
                at.log.error(&format!("{why:#}"));
            }
        }
        // Its output tells of the end sooner than the guest tells the daemon.
        true => drop(relay::exit(&mut daemon, at.process(id, ""))?),
    }
    Ok(code)
}

/// This program is where it stands for before its pid is told, to a file and to hooks.
fn stand_and_start(
    at: &Place,
    daemon: &mut Daemon,
    stands: &relay::Stands<'_>,
    myself: HostProcess,
) -> Result<()> {
    relay::sit(at, daemon, stands.process.clone(), myself);
    let written = match stands.pid_file {
        Some(path) => relay::write_pid_file(path, myself.pid),
        None => Ok(()),
    };
    let started = written.and_then(|()| start_in(at, daemon, &stands.process.container_id));
    if started.is_err() {
        relay::come_home(at, daemon);
    }
    started
}

fn delete_in(at: &Place, daemon: &mut Daemon, id: &str, force: bool) -> Result<()> {
    let request = DeleteRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        force,
        ..Default::default()
    };
    let deleted = daemon.ask(async |client| client.delete(soon(), &request).await)?;
    at.log.warn_beside(&deleted.warnings);
    Ok(())
}

pub fn delete(at: &Place, id: &str, force: bool) -> Result<u8> {
    delete_in(at, &mut at.daemon()?, id, force)?;
    Ok(0)
}
