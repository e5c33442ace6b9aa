//! Namespaces that a container shares with another one of its sandbox.
//!
//! Callers name them by files of the host: `/proc/PID/ns/uts`, where the pid is what stands for the other container. The
//! guest knows neither; it is told which container is meant, as `container:NUMBER` in the place of the path. The network
//! is the sandbox's, whose VM is in one namespace of the host: a path of another one is refused, for whichever of its names
//! the sandbox is joined by.

use crate::api::{Api, asked, netns_of};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};
use protocols::asynchronous::hutch::CreateRequest;
use runtime_core::{
    error::{Fault, Kind as FaultKind},
    ids::ContainerNumber,
    sandbox::{GetSandbox, SandboxView, ViewContainer},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Who is in the sandbox that is joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbours {
    /// As its caller names the sandbox.
    pub sandbox: String,
    pub containers: Vec<Neighbour>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub number: ContainerNumber,
    /// Of what stands for it on the host; whom nothing stands for, nobody can name.
    pub pid: u32,
}

impl Neighbours {
    /// The config.json for the guest.
    ///
    /// # Errors
    /// `Unsupported`: a namespace that is no neighbour's, or of a kind that is not shared.
    pub fn admit(&self, text: &str, spec: &Spec) -> Result<String, Fault> {
        let namespaces = spec.linux().as_ref();
        let namespaces = namespaces.and_then(|linux| linux.namespaces().as_deref());
        let namespaces = namespaces.unwrap_or_default();
        let named = |path: Option<&Path>| path.is_some_and(|path| !path.as_os_str().is_empty());
        if !namespaces.iter().any(|one| named(one.path().as_deref())) {
            return Ok(text.to_owned());
        }
        let mut config: Value = serde_json::from_str(text)
            .map_err(|why| Fault::invalid(format!("config.json: {why}")))?;
        for (index, one) in namespaces.iter().enumerate() {
            let path = one.path().as_deref().filter(|path| named(Some(path)));
            let Some(path) = path else { continue };
            let place = &mut config["linux"]["namespaces"][index];
            match one.typ() {
                // The guest has one network, and its host looks after it; [`Network`] has looked at the path.
                Kind::Network => place["path"] = Value::Null,
                kind @ (Kind::Pid | Kind::Ipc | Kind::Uts) => {
                    let name = kind.to_string();
                    let neighbour = self
                        .whose(&name, path)
                        .ok_or_else(|| self.refuse(kind, path))?;
                    place["path"] = json!(format!("container:{}", neighbour.number));
                }
                other => return Err(self.refuse(other, path)),
            }
            if place["path"].is_null()
                && let Some(place) = place.as_object_mut()
            {
                place.remove("path");
            }
        }
        Ok(config.to_string())
    }

    /// `name` is that of the kind of namespace below /proc.
    fn whose(&self, name: &str, path: &Path) -> Option<&Neighbour> {
        let of = |pid| format!("/proc/{pid}/ns/{name}");
        self.containers
            .iter()
            .find(|one| path == Path::new(&of(one.pid)))
    }

    fn refuse(&self, kind: Kind, path: &Path) -> Fault {
        let (path, sandbox) = (path.display(), &self.sandbox);
        let what = format!(
            "linux.namespaces: the {kind} namespace of the host at {path} is none that a container in sandbox {sandbox:?}, which this one joins, can share"
        );
        Fault::new(FaultKind::Unsupported, what)
    }
}

/// The network namespace of a sandbox, by all that names it on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Network {
    sandbox: String,
    /// The one that it was created with, unless it has one of its own.
    lent: Option<PathBuf>,
    /// Others, where they are there.
    names: Vec<PathBuf>,
}

impl Network {
    fn of(view: &SandboxView) -> Self {
        let spec = &view.spec;
        let own = spec.network.folder.join(netns::plan::NAME);
        let vmm = view.vm.as_ref().map(|vm| netns_of(vm.vmm).into());
        Self {
            sandbox: spec.id.to_string(),
            lent: spec.network.netns.clone(),
            names: vmm.into_iter().chain([own]).collect(),
        }
    }

    /// Looks at a path of the caller's, which may hang.
    ///
    /// # Errors
    /// `Unsupported`: it is another one, or is not there.
    fn admit(&self, path: &Path) -> Result<(), Fault> {
        let asked = identity(path);
        // A caller may have taken the name away again that it lent.
        if asked.is_none() && self.lent.as_deref() == Some(path) {
            return Ok(());
        }
        // Where its VM is says it; until there is one, the name that was lent.
        let known = |names: &[PathBuf]| names.iter().find_map(|name| identity(name));
        let its = known(&self.names).or_else(|| known(self.lent.as_slice()));
        if asked.is_some() && asked == its {
            return Ok(());
        }
        let (path, sandbox) = (path.display(), &self.sandbox);
        let what = format!(
            "linux.namespaces: the network namespace of the host at {path} is not that of sandbox {sandbox:?}, which this container joins"
        );
        Err(Fault::new(FaultKind::Unsupported, what))
    }
}

/// What a namespace is known by, whatever its name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// The namespaces of the host that a config.json names, the network's or the others. What is wrong with it otherwise is
/// said by [`crate::bundle::wish`].
fn named(config_json: &[u8], networks: bool) -> Vec<PathBuf> {
    let Ok(config) = serde_json::from_slice::<Value>(config_json) else {
        return Vec::new();
    };
    let all = config["linux"]["namespaces"].as_array();
    let wanted = all
        .into_iter()
        .flatten()
        .filter(|one| (one["type"] == "network") == networks);
    let paths = wanted.filter_map(|one| one["path"].as_str());
    paths
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect()
}

impl Api {
    /// Who is in the sandbox `id` that the request joins; `None`: it is nobody's, which the host will say.
    ///
    /// # Errors
    /// `Unsupported`: the config.json names another network than the sandbox's. `Timeout`, `Exhausted`: what it names
    /// does not answer.
    pub(crate) async fn neighbours(
        &self,
        request: &CreateRequest,
        id: &str,
    ) -> Result<Option<Neighbours>, Fault> {
        let place = match self.sandbox(&request.namespace, id).await {
            Ok(place) => place,
            Err(why) if why.kind() == FaultKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        let sandbox = asked(place.sandbox.send(GetSandbox).await)?;
        let networks = named(&request.config_json, true);
        let mut neighbours = Neighbours {
            sandbox: id.to_owned(),
            containers: Vec::new(),
        };
        if !networks.is_empty() || !named(&request.config_json, false).is_empty() {
            for number in &sandbox.containers {
                // One that goes meanwhile is nobody's neighbour.
                let view = asked(place.sandbox.send(ViewContainer(*number)).await)?;
                if let Some(relay) = view.ok().and_then(|view| view.relay) {
                    let (number, pid) = (*number, relay.pid);
                    neighbours.containers.push(Neighbour { number, pid });
                }
            }
        }
        let mut others = networks;
        others.retain(|path| neighbours.whose("net", path).is_none());
        if !others.is_empty() {
            let network = Network::of(&sandbox);
            let admit = move || others.iter().try_for_each(|path| network.admit(path));
            let what = "the networks that linux.namespaces names";
            self.lookout.look(what, admit).await??;
        }
        Ok(Some(neighbours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours() -> Neighbours {
        let one = |number, pid| Neighbour {
            number: ContainerNumber(number),
            pid,
        };
        Neighbours {
            sandbox: "pod".to_owned(),
            containers: vec![one(3, 71), one(4, 72)],
        }
    }

    fn admitted(namespaces: &str) -> Result<Value, Fault> {
        let text =
            format!(r#"{{"ociVersion":"1.0.2","x-kept":1,"linux":{{"namespaces":{namespaces}}}}}"#);
        let spec: Spec = serde_json::from_str(&text).unwrap();
        let text = neighbours().admit(&text, &spec)?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn namespaces_of_neighbours_are_named_by_their_numbers_and_the_network_is_the_sandboxs() {
        let config = admitted(
            r#"[{"type":"pid"},{"type":"network","path":"/proc/71/ns/net"},
                {"type":"uts","path":"/proc/71/ns/uts"},{"type":"ipc","path":"/proc/72/ns/ipc"},{"type":"mount"}]"#,
        )
        .unwrap();

        assert_eq!(
            config["linux"]["namespaces"],
            json!([{"type": "pid"}, {"type": "network"},
                   {"type": "uts", "path": "container:3"}, {"type": "ipc", "path": "container:4"},
                   {"type": "mount"}])
        );
        assert_eq!(config["x-kept"], 1);
    }

    #[test]
    fn a_namespace_of_somebody_else_is_refused_by_its_path() {
        for (kind, path) in [
            ("ipc", "/proc/7/ns/ipc"),
            ("uts", "/proc/711/ns/uts"),
            ("user", "/proc/71/ns/user"),
        ] {
            let namespaces = format!(r#"[{{"type":"{kind}","path":"{path}"}}]"#);

            let refused = admitted(&namespaces).unwrap_err();

            assert_eq!(refused.kind(), FaultKind::Unsupported);
            assert!(refused.to_string().contains(path), "{refused}");
        }
    }

    #[test]
    fn a_sandboxs_network_is_known_by_whatever_names_it_and_by_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let lent = folder.path().join("lent");
        let network = Network {
            sandbox: "pod".to_owned(),
            lent: Some(lent.clone()),
            names: vec!["/proc/self/ns/net".into(), folder.path().join("gone")],
        };

        for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
            assert_eq!(network.admit(Path::new(path)), Ok(()), "{path}");
        }
        assert_eq!(network.admit(&lent), Ok(()), "it is not there any more");
        for path in ["/proc/self/ns/uts", "/nowhere", "gone", ""] {
            let refused = network.admit(Path::new(path)).unwrap_err();
            assert_eq!(refused.kind(), FaultKind::Unsupported);
            let said = format!("at {path} is not that of sandbox \"pod\"");
            assert!(refused.to_string().contains(&said), "{refused}");
        }
    }

    #[test]
    fn networks_that_are_named_are_found_and_what_is_no_configuration_names_none() {
        let config = br#"{"linux":{"namespaces":[{"type":"network"},{"type":"network","path":""},
            {"type":"uts","path":"/u"},{"type":"network","path":"/n"}]}}"#;

        assert_eq!(named(config, true), [PathBuf::from("/n")]);
        assert_eq!(named(config, false), [PathBuf::from("/u")]);
        for other in [&b"{"[..], b"[]", br#"{"linux":{"namespaces":7}}"#] {
            assert!(named(other, true).is_empty());
        }
    }
}
