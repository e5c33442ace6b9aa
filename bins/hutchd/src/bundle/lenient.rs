//! Reads config.json and process.json as the specification wants them read: capabilities that nobody
//! knows are no failure, and words are taken that the library spells otherwise. The guest reads the
//! same text, leaves out what it does not know, and warns of it.

use oci_spec::runtime::{Capability, Process, Spec};
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::{Map, Value};

pub(super) fn config(text: &str) -> serde_json::Result<Spec> {
    read(text.as_bytes(), "/process")
}

pub(super) fn process(json: &[u8]) -> serde_json::Result<Process> {
    read(json, "")
}

/// What is wrong otherwise is said of the text as it came: it has the line.
fn read<T: DeserializeOwned>(json: &[u8], process: &str) -> serde_json::Result<T> {
    serde_json::from_slice(json).or_else(|failed| {
        let Ok(mut value) = serde_json::from_slice::<Value>(json) else {
            return Err(failed);
        };
        // What else is wrong with the text may be lost on the way, such as a key that is there twice.
        let process = value.pointer_mut(process);
        let mended = process.is_some_and(|it| forget_unknown_capabilities(it) | respell(it));
        match mended {
            true => T::deserialize(value).map_err(|_| failed),
            false => Err(failed),
        }
    })
}

/// Whether there were any.
fn forget_unknown_capabilities(process: &mut Value) -> bool {
    let sets = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut);
    let mut forgotten = false;
    for set in sets.into_iter().flat_map(Map::values_mut) {
        let Some(names) = set.as_array_mut() else {
            continue;
        };
        let before = names.len();
        names.retain(|name| !name.is_string() || Capability::deserialize(name).is_ok());
        forgotten |= names.len() < before;
    }
    forgotten
}

/// Whether there was anything to spell otherwise.
fn respell(process: &mut Value) -> bool {
    let flags = process.pointer_mut("/scheduler/flags");
    let mut respelt = false;
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let other = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = other.into();
        respelt = true;
    }
    respelt
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // Tests may.

    use super::*;
    use serde_json::json;

    fn with(process: &Value) -> String {
        let mut all = json!({"cwd": "/", "args": ["a"], "user": {"uid": 0, "gid": 0}});
        let all_fields = all.as_object_mut().unwrap();
        all_fields.extend(process.as_object().unwrap().clone());
        json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": all}).to_string()
    }

    #[test]
    fn capabilities_that_nobody_knows_are_no_failure() {
        let unknown = json!({"capabilities": {"bounding": ["CAP_KILL", "CAP_FLY"]}});

        let read = config(&with(&unknown)).unwrap();

        let process = read.process().clone().unwrap();
        let bounding = process.capabilities().clone().unwrap();
        let bounding = bounding.bounding().clone().unwrap();
        assert_eq!(bounding.into_iter().collect::<Vec<_>>(), [Capability::Kill]);
        let mut exec = serde_json::to_value(process).unwrap();
        exec["capabilities"]["effective"] = json!(["CAP_FLY"]);
        assert!(super::process(exec.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn flags_of_a_scheduler_are_taken_in_the_words_of_the_specification() {
        let flags = json!(["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]);
        let scheduler = json!({"scheduler": {"policy": "SCHED_BATCH", "flags": flags}});

        assert!(config(&with(&scheduler)).is_ok());
    }

    #[test]
    fn what_is_wrong_otherwise_is_said_with_its_line() {
        for wrong in [
            json!({"capabilities": {"bounding": ["CAP_FLY", 7]}}),
            json!({"capabilities": {"bounding": "CAP_KILL"}}),
            json!({"capabilities": {"bounding": ["CAP_FLY"]}, "cwd": 7}),
            json!({"scheduler": {"policy": "SCHED_BATCH", "flags": ["SCHED_FLY"]}}),
        ] {
            let why = config(&with(&wrong)).unwrap_err().to_string();
            assert!(why.contains("at line 1"), "{why}");
        }
        let twice = config(r#"{"ociVersion": "1.0.2", "ociVersion": "1.0.0"}"#).unwrap_err();
        assert!(twice.to_string().contains("duplicate field"), "{twice}");
    }
}
