//! Which sandbox a container belongs to, by the annotations of those who speak CRI: containerd
//! and CRI-O say in each container's config.json whether it stands for its pod or joins one.

use runtime_core::{
    error::Fault,
    ids::{ContainerId, SandboxId},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// The kind of a container that joins a sandbox.
const JOINS: &str = "container";

/// The two annotations of one caller: what kind a container is of, and which sandbox it joins.
struct Dialect {
    kind: &'static str,
    sandbox: &'static str,
}

const DIALECTS: [Dialect; 2] = [
    Dialect {
        kind: "io.kubernetes.cri.container-type",
        sandbox: "io.kubernetes.cri.sandbox-id",
    },
    Dialect {
        kind: "io.kubernetes.cri-o.ContainerType",
        sandbox: "io.kubernetes.cri-o.SandboxID",
    },
];

/// The sandbox that a container's annotations say it joins. What is wrong with them is said by [`home`].
pub fn joined(config_json: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(config_json).ok()?;
    let annotation = |name: &str| config["annotations"][name].as_str();
    let dialect = DIALECTS
        .iter()
        .find(|dialect| annotation(dialect.kind) == Some(JOINS))?;
    annotation(dialect.sandbox).map(str::to_owned)
}

/// Where a container goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// A sandbox of its own, which goes by this id, or by its uid.
    New(Option<SandboxId>),
    /// What the sandbox goes by.
    Join(String),
}

/// What the annotations say; `asked` is the sandbox that the caller named beside them.
///
/// # Errors
/// `Invalid`: a kind that is none, a container without its sandbox, or a sandbox other than `asked`.
pub fn home(
    id: &ContainerId,
    annotations: &BTreeMap<String, String>,
    asked: Option<String>,
) -> Result<Home, Fault> {
    let said = DIALECTS.iter().find_map(|dialect| {
        let kind = annotations.get(dialect.kind)?;
        Some((dialect, kind.as_str()))
    });
    let Some((dialect, kind)) = said else {
        return Ok(asked.map_or(Home::New(None), Home::Join));
    };
    match (kind, asked) {
        ("sandbox", None) => {
            let sandbox = SandboxId::new(id.as_str());
            let sandbox = sandbox.map_err(|why| Fault::invalid(why.to_string()))?;
            Ok(Home::New(Some(sandbox)))
        }
        ("sandbox", Some(asked)) => Err(Fault::invalid(format!(
            "annotation {} says that the container is a sandbox; it cannot join {asked:?}",
            dialect.kind
        ))),
        (JOINS, asked) => {
            let sandbox = annotations.get(dialect.sandbox).filter(|id| !id.is_empty());
            let sandbox = sandbox.ok_or_else(|| {
                Fault::invalid(format!(
                    "annotation {} says that the container joins a sandbox, and {} does not say which",
                    dialect.kind, dialect.sandbox
                ))
            })?;
            match asked {
                Some(asked) if asked != *sandbox => Err(Fault::invalid(format!(
                    "annotation {} names sandbox {sandbox:?}, and the request {asked:?}",
                    dialect.sandbox
                ))),
                Some(_) | None => Ok(Home::Join(sandbox.clone())),
            }
        }
        (other, _) => Err(Fault::invalid(format!(
            "annotation {} is {other:?}: it must be \"sandbox\" or \"container\"",
            dialect.kind
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)], asked: Option<&str>) -> Result<Home, String> {
        let annotations = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let id = ContainerId::new("c1").expect("an id");
        home(&id, &annotations, asked.map(str::to_owned)).map_err(|why| why.to_string())
    }

    const KIND: &str = "io.kubernetes.cri.container-type";
    const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

    #[test]
    fn both_callers_say_which_container_stands_for_its_pod_and_which_joins() {
        for dialect in DIALECTS {
            let pod = Home::New(Some(SandboxId::new("c1").expect("an id")));
            assert_eq!(of(&[(dialect.kind, "sandbox")], None), Ok(pod));
            let joins = [(dialect.kind, "container"), (dialect.sandbox, "pod")];
            assert_eq!(of(&joins, None), Ok(Home::Join("pod".to_owned())));
            assert_eq!(of(&joins, Some("pod")), Ok(Home::Join("pod".to_owned())));
        }
    }

    #[test]
    fn without_annotations_the_request_alone_says_it() {
        assert_eq!(of(&[], None), Ok(Home::New(None)));
        assert_eq!(of(&[], Some("web")), Ok(Home::Join("web".to_owned())));
        assert_eq!(of(&[(SANDBOX, "pod")], None), Ok(Home::New(None)));
    }

    #[test]
    fn annotations_that_contradict_themselves_or_the_request_are_refused_by_name() {
        let wrong = [
            (of(&[(KIND, "container")], None), SANDBOX),
            (of(&[(KIND, "container"), (SANDBOX, "")], None), SANDBOX),
            (of(&[(KIND, "pod")], None), KIND),
            (of(&[(KIND, "sandbox")], Some("web")), KIND),
            (
                of(&[(KIND, "container"), (SANDBOX, "a")], Some("b")),
                SANDBOX,
            ),
        ];
        for (outcome, name) in wrong {
            let text = outcome.expect_err("it is refused");
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn annotations_of_both_kinds_name_the_sandbox_and_only_for_what_joins_one() {
        let config = |kind: &str, id: &str, word: &str| {
            serde_json::json!({"annotations": {kind: word, id: "infra"}}).to_string()
        };
        for Dialect { kind, sandbox: id } in DIALECTS {
            let found = |word| joined(config(kind, id, word).as_bytes());
            assert_eq!(found("container").as_deref(), Some("infra"));
            assert_eq!(found("sandbox"), None);
        }
        assert_eq!(joined(b"{}"), None);
        assert_eq!(joined(b"no json"), None);
    }
}
