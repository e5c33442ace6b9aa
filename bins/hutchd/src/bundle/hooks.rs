//! The hooks of config.json that run on the host. Those of the container's own namespaces are the
//! guest's business, and only looked at here.

use super::PATH_BYTES_MAX;
use oci_spec::runtime::{Hook, Spec};
use runtime_core::{
    container::HostHooks,
    devices::{BindSpec, Purpose},
    error::Fault,
    premises,
};

/// hutch-agent's, of a hook that names no timeout, and of any (`engine/lower/hooks.rs`).
const GUEST_LIMIT_S: u32 = 60;
const GUEST_LIMIT_MAX_S: u32 = 3600;

/// Of each kind; more are a mistake, and each is a process of the host.
const HOOKS_MAX: usize = 64;

/// # Errors
/// `Invalid`: a path that is none, a timeout that is not positive, words with a NUL byte, too many.
pub(super) fn on_the_host(spec: &Spec) -> Result<HostHooks, Fault> {
    let Some(hooks) = spec.hooks() else {
        return Ok(HostHooks::default());
    };
    // Superseded by the other two, and still what many callers know.
    #[allow(deprecated)]
    let mut create = all("prestart", hooks.prestart())?;
    create.extend(all("createRuntime", hooks.create_runtime())?);
    all("createContainer", hooks.create_container())?;
    all("startContainer", hooks.start_container())?;
    Ok(HostHooks {
        create,
        poststart: all("poststart", hooks.poststart())?,
        poststop: all("poststop", hooks.poststop())?,
    })
}

/// The programs of createContainer, which are files of the host and run in the guest. They were looked
/// at with the others.
pub(super) fn programs(spec: &Spec) -> Vec<BindSpec> {
    let hooks = spec.hooks().as_ref();
    let hooks = hooks.and_then(|hooks| hooks.create_container().as_ref());
    let numbered = (0..).zip(hooks.into_iter().flatten());
    numbered
        .map(|(index, hook)| BindSpec {
            index,
            source: hook.path().clone(),
            recursive: false,
            read_only: true,
            purpose: Purpose::HookProgram,
        })
        .collect()
}

/// How long the hooks that run in the guest may take in all, in seconds, as its agent counts: 60 s for one that names
/// no timeout, an hour at most for each.
pub(super) fn limit_in_the_guest(spec: &Spec) -> u32 {
    let Some(hooks) = spec.hooks() else { return 0 };
    let kinds = [hooks.create_container(), hooks.start_container()];
    let timeouts = kinds.into_iter().flatten().flatten().map(Hook::timeout);
    let limit = |timeout: Option<i64>| match timeout.map(u32::try_from) {
        None => GUEST_LIMIT_S,
        Some(seconds) => seconds.map_or(GUEST_LIMIT_MAX_S, |s| s.min(GUEST_LIMIT_MAX_S)),
    };
    timeouts.map(limit).fold(0, u32::saturating_add)
}

fn all(kind: &str, hooks: &Option<Vec<Hook>>) -> Result<Vec<premises::Hook>, Fault> {
    let hooks = hooks.as_deref().unwrap_or_default();
    if hooks.len() > HOOKS_MAX {
        let found = hooks.len();
        return Err(Fault::invalid(format!(
            "hooks.{kind}: {found} hooks; at most {HOOKS_MAX} are possible"
        )));
    }
    let numbered = hooks.iter().enumerate();
    numbered
        .map(|(index, hook)| one(format!("hooks.{kind}[{index}]"), hook))
        .collect()
}

fn one(name: String, hook: &Hook) -> Result<premises::Hook, Fault> {
    let path = hook.path();
    let wrong = |why: &str| Err(Fault::invalid(format!("{name}: {why}")));
    if !path.is_absolute() {
        let path = path.display().to_string();
        return wrong(&format!("path {path:?} is not an absolute path"));
    }
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return wrong("path is too long");
    }
    let (args, env) = (hook.args().clone(), hook.env().clone());
    let (args, env) = (args.unwrap_or_default(), env.unwrap_or_default());
    if args.iter().chain(&env).any(|word| word.contains('\0')) {
        return wrong("args or env hold a NUL byte");
    }
    if let Some(entry) = env.iter().find(|entry| !entry.contains('=')) {
        return wrong(&format!("env: {entry:?} is not NAME=value"));
    }
    let timeout_s = match hook.timeout() {
        None => None,
        Some(seconds) => match u32::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(seconds),
            Ok(_) | Err(_) => return wrong(&format!("timeout {seconds} is not above 0")),
        },
    };
    Ok(premises::Hook {
        path: path.clone(),
        args,
        env,
        timeout_s,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hooks(hooks: Value) -> Result<HostHooks, Fault> {
        let spec = json!({ "ociVersion": "1.0.2", "hooks": hooks });
        on_the_host(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn hooks_in_the_guest_have_their_time_in_all_and_those_of_the_host_none_of_it() {
        let limit = |hooks: Value| {
            let spec = json!({ "ociVersion": "1.0.2", "hooks": hooks });
            limit_in_the_guest(&serde_json::from_value(spec).unwrap())
        };

        let both = json!({
            "createRuntime": [{ "path": "/c", "timeout": 3 }],
            "createContainer": [{ "path": "/a", "timeout": 5 }, { "path": "/b" }],
            "startContainer": [{ "path": "/d", "timeout": 4_294_967_296_i64 }],
        });
        assert_eq!(limit(both), 5 + 60 + 3600);
        assert_eq!(limit(json!({ "poststop": [{ "path": "/d" }] })), 0);
    }

    #[test]
    fn prestart_comes_before_create_runtime_and_each_knows_its_name() {
        let found = hooks(json!({
            "createRuntime": [{ "path": "/c", "timeout": 3 }],
            "prestart": [{ "path": "/a" }, { "path": "/b", "args": ["b", "x"], "env": ["A=1"] }],
            "poststop": [{ "path": "/d" }],
            "startContainer": [{ "path": "/in/the/guest" }],
        }));

        let found = found.unwrap();
        let names: Vec<_> = found.create.iter().map(|hook| hook.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "hooks.prestart[0]",
                "hooks.prestart[1]",
                "hooks.createRuntime[0]"
            ]
        );
        assert_eq!(found.create[1].args, ["b", "x"]);
        assert_eq!(found.create[2].timeout_s, Some(3));
        assert!(found.poststart.is_empty());
        assert_eq!(found.poststop.len(), 1);
    }

    #[test]
    fn a_hook_that_cannot_be_right_is_refused_by_its_name() {
        for (hook, why) in [
            (json!({ "path": "x" }), "is not an absolute path"),
            (json!({ "path": "/x", "timeout": 0 }), "timeout 0"),
            (json!({ "path": "/x", "timeout": -1 }), "timeout -1"),
            (json!({ "path": "/x", "env": ["A"] }), "is not NAME=value"),
            (json!({ "path": "/x", "args": ["a\0"] }), "NUL byte"),
        ] {
            for kind in ["prestart", "createContainer", "startContainer", "poststop"] {
                let refused = hooks(json!({ kind: [{ "path": "/ok" }, hook] }));
                let text = refused.unwrap_err().to_string();
                let name = format!("hooks.{kind}[1]: ");
                assert!(text.starts_with(&name) && text.contains(why), "{text}");
            }
        }
    }
}
