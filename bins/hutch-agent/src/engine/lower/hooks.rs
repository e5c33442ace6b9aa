//! Hooks that run in the guest: createContainer, in the container's namespaces with the guest's
//! root, and startContainer, in the container.

use super::{c_string, invalid, plain_path};
use crate::engine::{
    api::CreatePlan,
    error::Result,
    plan::{HookPlan, HookStep},
};
use oci_spec::runtime::{Hook, Spec};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::PathBuf};

const CREATE: &str = "createContainer";
const START: &str = "startContainer";
/// For a hook that says nothing of its time: the specification gives it all there is, and then
/// one that hangs would hold its container for ever.
const LIMIT_S: u32 = 60;
/// More is not waited for.
const LIMIT_MAX_S: u32 = 3600;

/// # Errors
/// A hook that makes no sense.
pub fn lower_hooks(spec: &Spec, asked: &CreatePlan) -> Result<HookPlan> {
    let hooks = spec.hooks().as_ref();
    let create = hooks.and_then(|all| all.create_container().as_deref());
    let start = hooks.and_then(|all| all.start_container().as_deref());
    let (create, start) = (create.unwrap_or_default(), start.unwrap_or_default());
    if let Some((index, _)) = asked.hook_programs.range(create.len()..).next() {
        return invalid(
            format!("program of {CREATE} hook #{index}"),
            "there is no such hook",
        );
    }
    if create.is_empty() && start.is_empty() {
        return Ok(HookPlan::default());
    }
    Ok(HookPlan {
        create: steps(CREATE, create, &asked.hook_programs)?,
        start: steps(START, start, &BTreeMap::new())?,
        state: state(spec, asked),
    })
}

fn steps(kind: &str, hooks: &[Hook], programs: &BTreeMap<usize, PathBuf>) -> Result<Vec<HookStep>> {
    let step = |(index, hook): (usize, &Hook)| {
        let path = plain_path(hook.path(), || format!("{kind} hook #{index}"))?;
        let name = format!("{kind} hook #{index} {path:?}");
        if !path.starts_with('/') {
            return invalid(name, "its path is not absolute");
        }
        let args = match hook.args() {
            Some(args) if !args.is_empty() => args.clone(),
            _ => vec![path.clone()],
        };
        let strings = |list: &[String], what: &str| {
            let string = |one: &String| c_string(one, || format!("{name}: {what}: {one:?}"));
            list.iter().map(string).collect::<Result<Vec<_>>>()
        };
        let program = match programs.get(&index) {
            Some(given) => plain_path(given, || format!("program of {name}"))?,
            None => path,
        };
        Ok(HookStep {
            program: c_string(&program, || name.clone())?,
            args: strings(&args, "args")?,
            env: strings(hook.env().as_deref().unwrap_or_default(), "env")?,
            limit_s: limit(hook.timeout(), &name)?,
            name,
        })
    };
    hooks.iter().enumerate().map(step).collect()
}

fn limit(timeout: Option<i64>, name: &str) -> Result<u32> {
    match timeout {
        None => Ok(LIMIT_S),
        Some(seconds) if seconds <= 0 => {
            invalid(name, format!("its timeout {seconds} is not above zero"))
        }
        Some(seconds) => Ok(u32::try_from(seconds).map_or(LIMIT_MAX_S, |s| s.min(LIMIT_MAX_S))),
    }
}

/// The container's state, but for what is known later.
fn state(spec: &Spec, asked: &CreatePlan) -> String {
    let mut state = Map::from_iter([
        ("ociVersion".to_owned(), json!(spec.version())),
        ("id".to_owned(), json!(asked.id)),
        ("bundle".to_owned(), json!(asked.bundle)),
    ]);
    if let Some(annotations) = spec.annotations()
        && !annotations.is_empty()
    {
        // Sorted, as everything that is written.
        let sorted: BTreeMap<_, _> = annotations.iter().collect();
        state.insert("annotations".to_owned(), json!(sorted));
    }
    Value::Object(state).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> CreatePlan {
        CreatePlan {
            id: "web".to_owned(),
            config_json: Vec::new(),
            rootfs: PathBuf::new(),
            bind_sources: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            hook_programs: BTreeMap::new(),
            disks: Vec::new(),
            host_devices: None,
            bundle: "/b".to_owned(),
        }
    }

    fn lower(hooks: Value, asked: &CreatePlan) -> Result<HookPlan> {
        let spec = json!({"ociVersion": "1.2.0", "hooks": hooks});
        lower_hooks(&serde_json::from_value(spec).unwrap(), asked)
    }

    #[test]
    fn a_hook_is_what_it_says_and_has_no_environment_but_its_own() {
        let hooks = json!({"createContainer": [{"path": "/x"}], "startContainer": [
            {"path": "/y", "args": ["z", "1"], "env": ["A=b"], "timeout": 7}]});

        let plan = lower(hooks, &asked()).unwrap();

        let (create, start) = (&plan.create[0], &plan.start[0]);
        assert_eq!(create.args, [c"/x".to_owned()]);
        assert_eq!((create.env.len(), create.limit_s), (0, LIMIT_S));
        assert_eq!(start.args, [c"z".to_owned(), c"1".to_owned()]);
        assert_eq!((start.env[0].as_c_str(), start.limit_s), (c"A=b", 7));
        assert_eq!(start.name, r#"startContainer hook #0 "/y""#);
        assert_eq!(
            plan.state,
            r#"{"bundle":"/b","id":"web","ociVersion":"1.2.0"}"#
        );
    }

    #[test]
    fn a_program_of_the_host_stands_in_for_the_path() {
        let hooks = json!({"createContainer": [{"path": "/x"}, {"path": "/y"}]});
        let mut asked = asked();
        asked.hook_programs.insert(1, "/share/7".into());

        let plan = lower(hooks.clone(), &asked).unwrap();
        asked.hook_programs.insert(2, "/share/8".into());
        let refused = lower(hooks, &asked).unwrap_err();

        assert_eq!(plan.create[0].program.as_c_str(), c"/x");
        assert_eq!(plan.create[1].program.as_c_str(), c"/share/7");
        assert_eq!(plan.create[1].args, [c"/y".to_owned()]);
        assert_eq!(
            refused.to_string(),
            "program of createContainer hook #2: there is no such hook"
        );
    }

    #[test]
    fn a_hook_that_makes_no_sense_is_named() {
        for (hook, why) in [
            (json!({"path": "x"}), "its path is not absolute"),
            (
                json!({"path": "/x", "timeout": 0}),
                "its timeout 0 is not above zero",
            ),
        ] {
            let refused = lower(json!({"startContainer": [hook]}), &asked()).unwrap_err();

            assert!(refused.to_string().ends_with(why), "{refused}");
            assert!(refused.to_string().starts_with("startContainer hook #0"));
        }
    }
}
