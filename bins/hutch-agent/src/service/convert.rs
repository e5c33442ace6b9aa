//! Between the messages of our own interface and what the agent is asked for. Pure.

pub mod oci;

use crate::{
    agent::{HostDevice, HostDisk, HostMount, Io, Made, NewContainer, NewExec},
    engine::DiskPurpose,
    error::Error,
    exits::{Entry, Exit, Reason},
    id::{Id, Name},
    ports,
    rootfs::{Access, Block, BlockKind, Source},
    stdio::Endpoint,
    table::{Host, State},
};
use protocols::asynchronous::hutch_agent::{
    self as messages, ContainerStatus, CreateRequest, ExecRequest, ExitReason, ListResponse,
    NextExitsResponse, ProcessCreated, ProcessState, ProcessStatus, Rootfs, StreamEndpoint,
    host_disk, rootfs, stream_endpoint,
};
use std::path::PathBuf;

/// What one answer carries of warnings; a config.json has a few, or it is made to be a burden.
const WARNINGS_MAX: usize = 64;
const WARNING_BYTES_MAX: usize = 1024;

pub fn new_container(request: CreateRequest) -> Result<NewContainer, Error> {
    let id = Id::parse("container", request.container_id)?;
    let source = rootfs_of(request.rootfs.into_option(), &id)?;
    let binds = request.host_mounts.into_iter().map(|mount| {
        let copies = Some(mount.copies_path).filter(|path| !path.is_empty());
        HostMount {
            index: mount.index as usize,
            path: mount.share_path.into(),
            copies: copies.map(PathBuf::from),
        }
    });
    let hook_programs = request.hook_programs.into_iter().map(|hook| {
        let path = PathBuf::from(hook.share_path);
        (hook.index as usize, path)
    });
    let disks = request.host_disks.into_iter().map(host_disk);
    let disks = disks.collect::<Result<_, _>>()?;
    let host_devices = request.host_devices.into_iter().map(|device| HostDevice {
        serial: device.serial,
        number: (device.major.into(), device.minor.into()),
    });
    Ok(NewContainer {
        host: Host::Ours,
        config_json: request.config_json,
        rootfs: source,
        binds: binds.collect(),
        hook_programs: hook_programs.collect(),
        disks,
        host_devices: Some(host_devices.collect()),
        bundle: request.bundle_path,
        storages: Vec::new(),
        io: io(request.stream.into_option())?,
        id,
    })
}

fn host_disk(disk: messages::HostDisk) -> Result<HostDisk, Error> {
    let purpose = match disk.purpose {
        Some(host_disk::Purpose::Mount(index)) => DiskPurpose::Mount(index as usize),
        Some(host_disk::Purpose::Device(index)) => DiskPurpose::Device(index as usize),
        _ => {
            let serial: String = disk.serial.chars().take(32).collect();
            return Err(Error::Invalid {
                what: format!("disk {serial:?}"),
                why: "is for nothing that is known",
            });
        }
    };
    Ok(HostDisk {
        access: access(disk.read_only),
        serial: disk.serial,
        purpose,
    })
}

fn access(read_only: bool) -> Access {
    match read_only {
        true => Access::ReadOnly,
        false => Access::ReadWrite,
    }
}

fn rootfs_of(rootfs: Option<Rootfs>, id: &Id) -> Result<Source, Error> {
    let invalid = |why| Error::Invalid {
        what: format!("root file system of container {id}"),
        why,
    };
    let source = rootfs.and_then(|rootfs| rootfs.source);
    match source.ok_or_else(|| invalid("not named"))? {
        rootfs::Source::SharePath(path) => Ok(Source::Share(path.into())),
        rootfs::Source::Block(block) => {
            let kind = match block.fs_type.as_str() {
                "ext4" => BlockKind::Ext4,
                "erofs" => BlockKind::Erofs,
                _ => return Err(invalid("neither ext4 nor erofs")),
            };
            let access = access(block.read_only);
            Ok(Source::Block(Block {
                serial: block.serial,
                kind,
                access,
            }))
        }
        _ => Err(invalid("of a kind that is not known")),
    }
}

pub fn new_exec(request: ExecRequest) -> Result<NewExec, Error> {
    Ok(NewExec {
        container: Id::parse("container", request.container_id)?,
        exec: Id::parse("exec", request.exec_id)?,
        host: Host::Ours,
        process_json: request.process_json,
        cgroup: request.cgroup.into(),
        io: io(request.stream.into_option())?,
    })
}

fn io(stream: Option<StreamEndpoint>) -> Result<Io, Error> {
    let Some(stream) = stream else {
        return Ok(Io::Nothing);
    };
    let invalid = |why| Error::Invalid {
        what: "stream endpoint".to_owned(),
        why,
    };
    match stream.endpoint.ok_or_else(|| invalid("names nothing"))? {
        stream_endpoint::Endpoint::SerialPort(name) if ports::valid_name(&name) => {
            Ok(Io::Stream(Endpoint::Serial(name)))
        }
        stream_endpoint::Endpoint::SerialPort(_) => Err(invalid("is not a name of a port")),
        stream_endpoint::Endpoint::VsockPort(port) => Ok(Io::Stream(Endpoint::Vsock(port))),
        _ => Err(invalid("of a kind that is not known")),
    }
}

/// `processes` are grouped by container, the init first.
pub fn list(processes: Vec<(Name, State)>) -> ListResponse {
    let mut answer = ListResponse::new();
    for (name, state) in processes {
        let id = name.container.as_str();
        if answer
            .containers
            .last()
            .is_none_or(|last| last.container_id != id)
        {
            answer.containers.push(ContainerStatus {
                container_id: id.to_owned(),
                ..ContainerStatus::default()
            });
        }
        if let Some(container) = answer.containers.last_mut() {
            container.processes.push(process(&name, state));
        }
    }
    answer
}

fn process(name: &Name, state: State) -> ProcessStatus {
    let (state, pid) = match state {
        State::Making => (ProcessState::PROCESS_STATE_MAKING, 0),
        State::Created { pid } => (ProcessState::PROCESS_STATE_CREATED, pid),
        State::Running { pid } => (ProcessState::PROCESS_STATE_RUNNING, pid),
        State::Exited { pid, .. } => (ProcessState::PROCESS_STATE_EXITED, pid),
    };
    ProcessStatus {
        exec_id: name.exec_id().to_owned(),
        state: state.into(),
        pid,
        ..ProcessStatus::default()
    }
}

pub fn created(made: Made) -> ProcessCreated {
    ProcessCreated {
        pid: made.pid,
        warnings: warnings(made.warnings),
        ..ProcessCreated::default()
    }
}

/// As many and as long as an answer may carry; that there are more is the last of them.
pub fn warnings(mut warnings: Vec<String>) -> Vec<String> {
    if warnings.len() > WARNINGS_MAX {
        let more = warnings.len() - (WARNINGS_MAX - 1);
        warnings.truncate(WARNINGS_MAX - 1);
        warnings.push(format!("{more} more warnings"));
    }
    for warning in &mut warnings {
        warning.truncate(warning.floor_char_boundary(WARNING_BYTES_MAX));
    }
    warnings
}

pub fn exits(entries: Vec<Entry>) -> NextExitsResponse {
    let mut answer = NextExitsResponse::new();
    for entry in entries {
        match entry {
            Entry::Exit(one) => answer.exits.push(exit(one)),
            Entry::Kill(kill) => answer.ooms.push(messages::Oom {
                seq: kill.seq,
                container_id: kill.container.as_str().to_owned(),
                at_ms: kill.at_ms,
                ..messages::Oom::default()
            }),
        }
    }
    answer
}

fn exit(exit: Exit) -> messages::Exit {
    let reason = match exit.ended.reason {
        Reason::Exited => ExitReason::EXIT_REASON_EXITED,
        Reason::Signaled => ExitReason::EXIT_REASON_SIGNALED,
        Reason::Oom => ExitReason::EXIT_REASON_OOM,
    };
    messages::Exit {
        seq: exit.seq,
        container_id: exit.name.container.as_str().to_owned(),
        exec_id: exit.name.exec_id().to_owned(),
        code: exit.ended.code,
        reason: reason.into(),
        at_ms: exit.ended.at_ms,
        ..messages::Exit::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(source: Option<rootfs::Source>) -> CreateRequest {
        let mut request = CreateRequest::new();
        request.container_id = "web".to_owned();
        request.rootfs = Some(Rootfs {
            source,
            ..Rootfs::default()
        })
        .into();
        request
    }

    #[test]
    fn a_container_without_stream_reads_nothing() {
        let source = rootfs::Source::SharePath("c/1/rootfs".to_owned());

        let wish = new_container(request(Some(source))).unwrap();

        assert_eq!(wish.rootfs, Source::Share("c/1/rootfs".into()));
        assert_eq!(wish.io, Io::Nothing);
    }

    #[test]
    fn what_names_no_root_file_system_is_refused() {
        let other = messages::BlockRootfs {
            serial: "x".to_owned(),
            fs_type: "xfs".to_owned(),
            ..messages::BlockRootfs::default()
        };

        for bad in [None, Some(rootfs::Source::Block(other))] {
            let refused = new_container(request(bad)).err().unwrap();

            assert!(
                refused.to_string().contains(r#"container "web""#),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_port_that_none_can_be_is_refused() {
        let endpoint = |endpoint| {
            Some(StreamEndpoint {
                endpoint,
                ..StreamEndpoint::default()
            })
        };
        let serial = |name: &str| stream_endpoint::Endpoint::SerialPort(name.to_owned());

        assert!(io(endpoint(None)).is_err());
        assert!(io(endpoint(Some(serial("../x")))).is_err());
        assert_eq!(
            io(endpoint(Some(serial("hutch.stream.1")))).unwrap(),
            Io::Stream(Endpoint::Serial("hutch.stream.1".to_owned()))
        );
    }

    #[test]
    fn warnings_are_bounded_and_say_so() {
        let few = warnings(vec!["é".repeat(600)]);
        let many = warnings(vec!["w".to_owned(); 100]);

        assert_eq!(few, ["é".repeat(512)]);
        assert_eq!(many.len(), WARNINGS_MAX);
        assert_eq!(many.last().unwrap(), "37 more warnings");
    }

    #[test]
    fn processes_are_listed_under_their_containers() {
        let name = |container: &str, exec: &str| {
            Name::parse(container.to_owned(), exec.to_owned()).unwrap()
        };

        let answer = list(vec![
            (name("a", ""), State::Created { pid: 5 }),
            (name("b", ""), State::Running { pid: 6 }),
            (name("b", "e"), State::Running { pid: 7 }),
        ]);

        let shape: Vec<_> = answer
            .containers
            .iter()
            .map(|container| {
                let execs = container
                    .processes
                    .iter()
                    .map(|process| process.exec_id.as_str());
                (container.container_id.as_str(), execs.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(shape, [("a", vec![""]), ("b", vec!["", "e"])]);
    }
}
