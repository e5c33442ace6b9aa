//! Namespaces that a container shares with another one of its sandbox.
//!
//! Callers name them by files of the host: `/proc/PID/ns/uts`, where the pid is what stands for the other container. The
//! guest knows neither; it is told which container is meant, as `container:NUMBER` in the place of the path.

use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};
use runtime_core::{
    error::{Fault, Kind as FaultKind},
    ids::ContainerNumber,
};
use serde_json::{Value, json};
use std::path::Path;

/// The container whose sandbox is joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub id: String,
    pub number: ContainerNumber,
    /// Of what stands for it on the host; `None`: nothing does.
    pub pid: Option<u32>,
}

impl Neighbour {
    /// The config.json for the guest.
    ///
    /// # Errors
    /// `Unsupported`: a namespace that is not the neighbour's, or of a kind that is not shared.
    pub fn admit(&self, text: &str, spec: &Spec) -> Result<String, Fault> {
        let namespaces = spec.linux().as_ref();
        let namespaces = namespaces.and_then(|linux| linux.namespaces().as_deref());
        let namespaces = namespaces.unwrap_or_default();
        let named = |path: Option<&Path>| path.is_some_and(|path| !path.as_os_str().is_empty());
        if !namespaces.iter().any(|one| named(one.path().as_deref())) {
            return Ok(text.to_owned());
        }
        let mut config: Value = serde_json::from_str(text)
            .map_err(|why| Fault::new(FaultKind::Invalid, format!("config.json: {why}")))?;
        for (index, one) in namespaces.iter().enumerate() {
            let path = one.path().as_deref().filter(|path| named(Some(path)));
            let Some(path) = path else { continue };
            let place = &mut config["linux"]["namespaces"][index];
            match one.typ() {
                // The guest has one network, and its host looks after it.
                Kind::Network => place["path"] = Value::Null,
                Kind::Pid | Kind::Ipc | Kind::Uts if self.has(path) => {
                    place["path"] = json!(format!("container:{}", self.number));
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

    fn has(&self, path: &Path) -> bool {
        let of = |pid| Path::new("/proc").join(format!("{pid}")).join("ns");
        self.pid.is_some_and(|pid| path.starts_with(of(pid)))
    }

    fn refuse(&self, kind: Kind, path: &Path) -> Fault {
        let (path, id) = (path.display(), &self.id);
        let what = format!(
            "linux.namespaces: the {kind} namespace of the host at {path} is none that container {id:?}, whose sandbox this one joins, can share"
        );
        Fault::new(FaultKind::Unsupported, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour() -> Neighbour {
        Neighbour {
            id: "infra".to_owned(),
            number: ContainerNumber(3),
            pid: Some(71),
        }
    }

    fn admitted(namespaces: &str) -> Result<Value, Fault> {
        let text =
            format!(r#"{{"ociVersion":"1.0.2","x-kept":1,"linux":{{"namespaces":{namespaces}}}}}"#);
        let spec: Spec = serde_json::from_str(&text).unwrap();
        let text = neighbour().admit(&text, &spec)?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn namespaces_of_the_neighbour_are_named_by_its_number_and_the_network_is_the_sandboxs() {
        let config = admitted(
            r#"[{"type":"pid"},{"type":"network","path":"/proc/71/ns/net"},
                {"type":"uts","path":"/proc/71/ns/uts"},{"type":"mount"}]"#,
        )
        .unwrap();

        assert_eq!(
            config["linux"]["namespaces"],
            json!([{"type": "pid"}, {"type": "network"},
                   {"type": "uts", "path": "container:3"}, {"type": "mount"}])
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
}
