//! state, list, version: what is.

use super::Place;
use crate::{
    args::{self, Format},
    daemon::{Daemon, soon},
    log::rfc3339,
    output::{print, print_json, table},
};
use anyhow::Result;
use protocols::asynchronous::hutch::{ContainerInfo, ListRequest, StateRequest};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

fn owner(info: &ContainerInfo) -> String {
    match info.owner_uid {
        0 => "root".to_owned(),
        uid => uid.to_string(),
    }
}

/// As runc has it, and which sandbox, and how it ended; what there is nothing of is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: u32,
    status: &'a str,
    bundle: &'a str,
    rootfs: &'a str,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
    owner: String,
    sandbox: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Exit<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

#[derive(Serialize)]
struct Exit<'a> {
    code: u32,
    reason: &'a str,
    detail: &'a str,
    at: String,
}

fn shown(info: &ContainerInfo) -> State<'_> {
    let annotations = info.annotations.iter();
    State {
        oci_version: &info.oci_version,
        id: &info.container_id,
        pid: info.pid,
        status: &info.status,
        bundle: &info.bundle,
        rootfs: &info.rootfs,
        created: rfc3339(info.created_ms / 1_000),
        annotations: annotations.map(|(key, value)| (&**key, &**value)).collect(),
        owner: owner(info),
        sandbox: &info.sandbox_uid,
        exit: info.exit.as_ref().map(|exit| Exit {
            code: exit.code,
            reason: &exit.reason,
            detail: &exit.detail,
            at: rfc3339(exit.at_ms / 1_000),
        }),
        reason: &info.reason,
    }
}

pub fn state(at: &Place, id: &str) -> Result<u8> {
    let request = StateRequest {
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        ..Default::default()
    };
    let info = at
        .daemon()?
        .ask(async |client| client.state(soon(), &request).await)?;
    print_json(&shown(&info))?;
    Ok(0)
}

pub fn list(at: &Place, list: &args::List) -> Result<u8> {
    let request = ListRequest {
        namespace: match list.all_namespaces {
            true => String::new(),
            false => at.namespace.clone(),
        },
        ..Default::default()
    };
    // Where no daemon runs there may still be containers: the one that is started adopts them.
    let listed = at
        .daemon()?
        .ask(async |client| client.list(soon(), &request).await)?;
    let containers = listed.containers;
    if list.quiet {
        let ids = containers
            .iter()
            .map(|info| format!("{}\n", info.container_id));
        print(&ids.collect::<String>())?;
        return Ok(0);
    }
    match list.format {
        Format::Json => print_json(&containers.iter().map(shown).collect::<Vec<_>>())?,
        Format::Table => {
            let row = |info: &ContainerInfo| {
                vec![
                    info.container_id.clone(),
                    info.pid.to_string(),
                    info.status.clone(),
                    info.bundle.clone(),
                    rfc3339(info.created_ms / 1_000),
                    owner(info),
                    info.sandbox_uid.clone(),
                ]
            };
            let rows: Vec<_> = containers.iter().map(row).collect();
            let titles = [
                "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER", "SANDBOX",
            ];
            print(&table(&titles, &rows))?;
        }
    }
    Ok(0)
}

pub fn version(at: &Place, version: &args::Version) -> Result<u8> {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = Daemon::running(&at.root)?.map(|daemon| daemon.version().to_owned());
    match version.format {
        Format::Json => print_json(
            &json!({"hutch": ours, "hutchd": theirs, "spec": oci_spec::runtime::VERSION}),
        )?,
        Format::Table => {
            let theirs = theirs.as_deref().unwrap_or("not running");
            let spec = oci_spec::runtime::VERSION;
            print(&format!(
                "hutch version {ours}\nhutchd: {theirs}\nspec: {spec}\n"
            ))?;
        }
    }
    Ok(0)
}
