//! xtask runs before anything is installed: nothing that it is built from may need a C library.

use super::Finding;
use crate::{command, workspace::Workspace};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

const ROOT: &str = "xtask";

/// The part of `cargo metadata` that is looked at.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    /// The native library that a package wraps.
    links: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

pub fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let text = command::read(workspace.cargo().args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?;
    let metadata = serde_json::from_str(&text).context("read cargo's metadata")?;
    Ok(needing_libraries(&metadata)
        .into_iter()
        .map(|name| {
            Finding::hard(
                "xtask/Cargo.toml",
                1,
                format!("`{name}` is in xtask's tree and wraps a C library"),
            )
        })
        .collect())
}

/// Packages with a native library among all that xtask is built from.
fn needing_libraries(metadata: &Metadata) -> Vec<String> {
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let mut waiting: Vec<&str> = packages
        .values()
        .filter(|package| package.name == ROOT)
        .map(|package| package.id.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let edges = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        waiting.extend(
            edges
                .filter(|edge| {
                    edge.dep_kinds
                        .iter()
                        .any(|kind| kind.kind.as_deref() != Some("dev"))
                })
                .map(|edge| edge.pkg.as_str()),
        );
    }
    seen.iter()
        .filter_map(|id| packages.get(id))
        .filter(|package| package.links.is_some())
        .map(|package| package.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_below_xtask_is_found_and_one_of_others_or_of_tests_is_not() {
        let metadata: Metadata = serde_json::from_str(
            r#"{
                "packages": [
                    { "id": "x", "name": "xtask", "links": null },
                    { "id": "a", "name": "a", "links": null },
                    { "id": "s", "name": "seccomp-sys", "links": "seccomp" },
                    { "id": "t", "name": "test-sys", "links": "t" },
                    { "id": "o", "name": "other-sys", "links": "o" }
                ],
                "resolve": { "nodes": [
                    { "id": "x", "deps": [
                        { "pkg": "a", "dep_kinds": [{ "kind": null }] },
                        { "pkg": "t", "dep_kinds": [{ "kind": "dev" }] }
                    ] },
                    { "id": "a", "deps": [{ "pkg": "s", "dep_kinds": [{ "kind": "build" }] }] },
                    { "id": "s", "deps": [] },
                    { "id": "t", "deps": [] },
                    { "id": "o", "deps": [] }
                ] }
            }"#,
        )
        .unwrap();

        assert_eq!(needing_libraries(&metadata), ["seccomp-sys"]);
    }
}
