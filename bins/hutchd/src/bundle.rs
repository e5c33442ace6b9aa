//! From a bundle's config.json to a wish: the edge where it is parsed, once.
//!
//! What is wrong with a bundle is said here, before anything exists. Fields that only the guest
//! can judge (its users, its programs) are judged there.

mod disks;
mod hooks;
mod lenient;
mod limits;

use crate::{
    neighbour::Neighbours,
    pods::{self, Home},
};
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Mount, Process, Spec, User};
use runtime_core::{
    container::ContainerSpec,
    devices::{BindSpec, ContainerDevices, Purpose},
    error::{Fault, Kind},
    host::{RootKind, Wish},
    ids::{ContainerId, ContainerNumber, EpochMs, HostProcess, Namespace, SandboxUid},
    premises::Cgroup,
    sandbox::ANNOTATIONS_BYTES_MAX,
};
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

/// ttrpc's message limit is 4 MiB; what is larger than this would not reach the guest.
const CONFIG_BYTES_MAX: usize = 2 * 1024 * 1024;
/// NAME_MAX of Linux.
const NAME_BYTES_MAX: usize = 255;
/// PATH_MAX of Linux, less its closing NUL.
const PATH_BYTES_MAX: usize = 4095;
/// As in runc. 4294967295 is no id at all: whoever sets it stays who he is, and in a guest that is root.
const USER_ID_MAX: u32 = i32::MAX.cast_unsigned();

/// A create request whose ids are parsed.
pub struct Request<'a> {
    pub namespace: Namespace,
    pub id: ContainerId,
    pub bundle: &'a str,
    pub config_json: &'a [u8],
    pub join: Option<String>,
    /// Who is in the sandbox that it joins, where that is known already.
    pub neighbours: Option<Neighbours>,
    pub cgroups_path: String,
    /// Who stands for its init from the start.
    pub relay: Option<HostProcess>,
    pub uid: SandboxUid,
    pub created: EpochMs,
}

/// Of its root it says [`RootKind::Directory`]: nothing is looked at here.
///
/// # Errors
/// `Invalid`, with one line that says which field is wrong and why.
pub fn wish(request: Request<'_>) -> Result<Wish, Fault> {
    let bundle = absolute("bundle", request.bundle)?;
    if request.config_json.len() > CONFIG_BYTES_MAX {
        let len = request.config_json.len();
        return Err(Fault::invalid(format!(
            "config.json has {len} bytes; at most {CONFIG_BYTES_MAX} are possible"
        )));
    }
    let text = std::str::from_utf8(request.config_json)
        .map_err(|why| Fault::invalid(format!("config.json is not UTF-8: {why}")))?;
    let spec =
        lenient::config(text).map_err(|why| Fault::invalid(format!("config.json: {why}")))?;
    check_version(spec.version())?;
    let process = spec.process().as_ref();
    check_process(process.ok_or_else(|| Fault::invalid("config.json: process is missing"))?)?;
    let root = spec.root().as_ref();
    let root = root.ok_or_else(|| Fault::invalid("config.json: root is missing"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Fault::invalid("config.json: root.path is empty"));
    }
    let linux = linux_of(&spec)?;
    let hooks = hooks::on_the_host(&spec)?;
    check_cgroups_path(&request.cgroups_path)?;
    let annotations = annotations(&spec)?;
    let (join, sandbox) = match pods::home(&request.id, &annotations, request.join)? {
        Home::New(sandbox) => (None, sandbox),
        Home::Join(sandbox) => (Some(sandbox), None),
    };
    let mut binds = binds(spec.mounts().as_deref().unwrap_or_default())?;
    binds.extend(hooks::programs(&spec));
    binds.extend(disks::devices(linux)?);
    let devices = ContainerDevices {
        container: ContainerNumber(0),
        bundle: bundle.clone(),
        root: root.path().clone(),
        root_read_only: root.readonly().unwrap_or(false),
        binds,
    };
    let hostname = spec.hostname().clone().unwrap_or_default();
    let (config_json, netns) = match &request.neighbours {
        Some(neighbours) => (neighbours.admit(text, &spec)?, None),
        None => (text.to_owned(), network_namespace(&spec)?),
    };
    Ok(Wish {
        uid: request.uid,
        join,
        sandbox,
        netns,
        hostname: hostname_for_guest(hostname, request.id.as_str())?,
        root: RootKind::Directory,
        spec: ContainerSpec {
            number: ContainerNumber(0),
            namespace: request.namespace,
            id: request.id,
            rootfs: bundle.join(root.path()),
            bundle,
            config_json,
            oci_version: spec.version().clone(),
            annotations,
            devices,
            guest_hooks_s: hooks::limit_in_the_guest(&spec),
            hooks,
            created: request.created,
            owner_uid: 0,
            cgroup: callers_cgroup(&request.cgroups_path),
            created_by: None,
            relay: request.relay,
        },
    })
}

/// # Errors
/// `Invalid`: not JSON, or a field that cannot be right.
pub fn check_process_json(json: &[u8]) -> Result<(), Fault> {
    if json.len() > CONFIG_BYTES_MAX {
        return Err(Fault::invalid(format!(
            "process has {} bytes; at most {CONFIG_BYTES_MAX} are possible",
            json.len()
        )));
    }
    let process =
        lenient::process(json).map_err(|why| Fault::invalid(format!("process: {why}")))?;
    check_process(&process)
}

/// Where below its container's own cgroup an exec is to be; "." is that itself, and empty whatever suits. Whether it is
/// there the guest knows.
///
/// # Errors
/// `Invalid`: no path of names below a folder.
pub fn check_cgroup_below(path: &str) -> Result<(), Fault> {
    if path == "." {
        return Ok(());
    }
    if path.starts_with('/') {
        let shown = shown(path);
        return Err(Fault::invalid(format!("cgroup {shown:?}: it is not below")));
    }
    check_names("cgroup", path)
}

/// # Errors
/// `Invalid`: not an object of linux.resources, or a limit that is none.
pub fn check_resources_json(json: &[u8]) -> Result<(), Fault> {
    if json.len() > CONFIG_BYTES_MAX {
        let len = json.len();
        return Err(Fault::invalid(format!(
            "resources have {len} bytes; at most {CONFIG_BYTES_MAX} are possible"
        )));
    }
    let resources: Result<LinuxResources, _> = serde_json::from_slice(json);
    let resources = resources.map_err(|why| Fault::invalid(format!("resources: {why}")))?;
    limits::check(&resources)
}

fn linux_of(spec: &Spec) -> Result<&Linux, Fault> {
    let linux = spec.linux().as_ref();
    let linux = linux.ok_or_else(|| {
        Fault::invalid("config.json: linux is missing; only Linux containers can be run")
    })?;
    if let Some(resources) = linux.resources() {
        limits::check(resources)?;
    }
    Ok(linux)
}

fn check_version(version: &str) -> Result<(), Fault> {
    if version.is_empty() {
        let missing = "config.json: ociVersion is missing or empty";
        return Err(Fault::invalid(missing));
    }
    let mut parts = version.split(['.', '-', '+']);
    let numbers: Vec<Option<u32>> = (0..3)
        .map(|_| parts.next().and_then(|part| part.parse().ok()))
        .collect();
    match numbers[..] {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(Fault::invalid(format!(
            "config.json: ociVersion {version:?} is not supported; 1.x.y is"
        ))),
        _ => Err(Fault::invalid(format!(
            "config.json: ociVersion {version:?} is not a version"
        ))),
    }
}

fn check_process(process: &Process) -> Result<(), Fault> {
    let args = process.args().as_deref().unwrap_or_default();
    match args.first() {
        None => return Err(Fault::invalid("process.args is empty")),
        Some(program) if program.is_empty() => {
            return Err(Fault::invalid("process.args: the program's name is empty"));
        }
        Some(_) => {}
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Fault::invalid("process.args holds a NUL byte"));
    }
    let env = process.env().as_deref().unwrap_or_default();
    if let Some(entry) = env.iter().find(|entry| entry.contains('\0')) {
        return Err(Fault::invalid(format!(
            "process.env: {entry:?} holds a NUL byte"
        )));
    }
    check_user(process.user())?;
    let cwd = process.cwd();
    match cwd.is_absolute() {
        true => Ok(()),
        false => Err(Fault::invalid(format!(
            "process.cwd {:?} is not an absolute path",
            cwd.display().to_string()
        ))),
    }
}

fn check_user(user: &User) -> Result<(), Fault> {
    let groups = user.additional_gids().iter().flatten();
    let mut ids = [user.uid(), user.gid()].into_iter().chain(groups.copied());
    match ids.find(|id| *id > USER_ID_MAX) {
        None => Ok(()),
        Some(id) => Err(Fault::invalid(format!(
            "process.user: {id}: uids and gids must be in range 0-{USER_ID_MAX}"
        ))),
    }
}

fn absolute(what: &str, path: &str) -> Result<PathBuf, Fault> {
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(Fault::invalid(format!("{what}: not a path")));
    }
    let path = Path::new(path);
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(Fault::invalid(format!(
            "{what} {:?} is not an absolute path",
            path.display().to_string()
        ))),
    }
}

fn binds(mounts: &[Mount]) -> Result<Vec<BindSpec>, Fault> {
    let mut binds = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        if !mount.destination().is_absolute() {
            return Err(Fault::invalid(format!(
                "mounts[{index}]: destination {:?} is not an absolute path",
                mount.destination().display().to_string()
            )));
        }
        let options = mount.options().as_deref().unwrap_or_default();
        let has = |name: &str| options.iter().any(|option| option == name);
        let is_bind = mount.typ().as_deref() == Some("bind") || has("bind") || has("rbind");
        let purpose = match (is_bind, disks::is_file_system(mount)) {
            (true, _) => Purpose::Mount,
            (false, true) => Purpose::FileSystem,
            (false, false) => continue,
        };
        let source = mount
            .source()
            .clone()
            .filter(|source| !source.as_os_str().is_empty());
        let source = source.ok_or_else(|| {
            let kind = if is_bind {
                "bind mount"
            } else {
                "file system on a disk"
            };
            Fault::invalid(format!("mounts[{index}]: a {kind} needs a source"))
        })?;
        if source.components().any(|part| part == Component::ParentDir) && !source.is_absolute() {
            return Err(Fault::invalid(format!(
                "mounts[{index}]: source {:?} leaves the bundle",
                source.display().to_string()
            )));
        }
        binds.push(BindSpec {
            index: u32::try_from(index)
                .map_err(|_| Fault::invalid("config.json has too many mounts"))?,
            source,
            recursive: has("rbind"),
            read_only: has("ro") || has("rro"),
            purpose,
        });
    }
    Ok(binds)
}

fn annotations(spec: &Spec) -> Result<BTreeMap<String, String>, Fault> {
    let all = spec.annotations().clone().unwrap_or_default();
    let bytes: usize = all.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        return Err(Fault::invalid(format!(
            "annotations have {bytes} bytes; at most {ANNOTATIONS_BYTES_MAX} are possible"
        )));
    }
    match all.contains_key("") {
        true => Err(Fault::invalid("annotations: a key is empty")),
        false => Ok(all.into_iter().collect()),
    }
}

/// A name of systemd's form (`slice:prefix:name`) is no path and is not judged here.
fn check_cgroups_path(path: &str) -> Result<(), Fault> {
    check_names("linux.cgroupsPath", path)
}

/// Of a text that is wrong, and may be long.
fn shown(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}

fn check_names(what: &str, path: &str) -> Result<(), Fault> {
    let wrong = |why: &str| Err(Fault::invalid(format!("{what} {:?}: {why}", shown(path))));
    if path.len() > PATH_BYTES_MAX {
        return wrong("too long for a path");
    }
    if path.chars().any(char::is_control) {
        return wrong("holds a control character");
    }
    let mut parts = path.split('/');
    match parts.find(|part| matches!(*part, "." | "..") || part.len() > NAME_BYTES_MAX) {
        Some("." | "..") => wrong("\".\" and \"..\" name no cgroup"),
        Some(_) => wrong("a part of it is too long for a name"),
        None => Ok(()),
    }
}

/// A path of systemd's form (`slice:prefix:name`) is not a cgroup path, and none is used.
fn callers_cgroup(path: &str) -> Option<Cgroup> {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    parts.peek()?;
    let named: String = parts.map(|part| format!("/{part}")).collect();
    (!named.contains(':')).then_some(Cgroup(named))
}

fn network_namespace(spec: &Spec) -> Result<Option<PathBuf>, Fault> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
    let mut network = None;
    for namespace in namespaces.unwrap_or_default() {
        let Some(path) = namespace.path() else {
            continue;
        };
        match namespace.typ() {
            LinuxNamespaceType::Network => {
                let path = absolute(
                    "linux.namespaces: network path",
                    &path.display().to_string(),
                )?;
                network = Some(path);
            }
            other => {
                return Err(Fault::new(
                    Kind::Unsupported,
                    format!(
                        "linux.namespaces: the {other} namespace of the host at {} cannot enter a vm",
                        path.display()
                    ),
                ));
            }
        }
    }
    Ok(network)
}

/// A host name has at most 64 bytes in Linux (`__NEW_UTS_LEN`).
///
/// # Errors
/// `Invalid`: it is none.
pub fn hostname_for_guest(hostname: String, id: &str) -> Result<String, Fault> {
    const BYTES_MAX: usize = 64;
    if hostname.is_empty() {
        return Ok(id.chars().take(12).collect());
    }
    match hostname.len() <= BYTES_MAX && !hostname.contains('\0') {
        true => Ok(hostname),
        false => Err(Fault::invalid(format!(
            "hostname has {} bytes; at most {BYTES_MAX} are possible",
            hostname.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // Tests may.

    use super::*;

    #[test]
    fn a_cgroup_for_an_exec_is_named_below_its_containers_own() {
        for path in ["", ".", "a", "a/b.scope", "..."] {
            check_cgroup_below(path).unwrap();
        }
        let (long, longer) = ("a".repeat(NAME_BYTES_MAX + 1), "a/".repeat(PATH_BYTES_MAX));
        for path in [
            "/", "/a", "..", "a/../..", "a/.", "a\0", "a\n", &long, &longer,
        ] {
            let fault = check_cgroup_below(path).unwrap_err();
            assert_eq!(fault.kind(), Kind::Invalid, "{path}");
            assert!(fault.to_string().len() < 2 * NAME_BYTES_MAX, "{fault}");
        }
    }

    #[test]
    fn a_user_or_group_out_of_range_is_refused_before_a_guest_is_asked() {
        let check = |user: &str| {
            let json = format!(r#"{{"cwd":"/","args":["a"],"user":{user}}}"#);
            check_process_json(json.as_bytes()).map_err(|fault| fault.to_string())
        };

        assert_eq!(check(r#"{"uid":2147483647,"gid":2147483647}"#), Ok(()));
        for user in [
            r#"{"uid":4294967295,"gid":0}"#,
            r#"{"uid":0,"gid":4294967295}"#,
            r#"{"uid":0,"gid":0,"additionalGids":[1,2147483648]}"#,
        ] {
            let refused = check(user).unwrap_err();

            assert!(
                refused.contains("must be in range 0-2147483647"),
                "{refused}"
            );
        }
    }
}
