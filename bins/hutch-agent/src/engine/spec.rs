//! Reads config.json and its parts, and names every key that nobody here knows.

use super::error::{Error, Result};
use oci_spec::runtime::{Capability, LinuxResources, Process, Spec};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// More unknown keys than this are not told one by one.
const UNKNOWN_KEYS_MAX: usize = 32;

/// What was asked for and cannot be honoured, each named.
pub type Warnings = Vec<String>;

/// # Errors
/// When it is not the JSON of a config.json.
pub fn parse_config(json: &[u8], warnings: &mut Warnings) -> Result<Spec> {
    parse_process_in(json, "config.json", "/process", warnings)
}

/// # Errors
/// When it is not the JSON of an OCI process.
pub fn parse_process(json: &[u8], warnings: &mut Warnings) -> Result<Process> {
    parse_process_in(json, "process.json", "", warnings)
}

/// # Errors
/// When it is not the JSON of OCI resources.
pub fn parse_resources(json: &[u8], warnings: &mut Warnings) -> Result<LinuxResources> {
    parse(json, "resources", warnings)
}

/// Parses what the library does not: capabilities that nobody knows, which are told and left out,
/// since the specification forbids to fail for them, and words that the library spells otherwise.
fn parse_process_in<T: DeserializeOwned>(
    json: &[u8],
    what: &'static str,
    process: &str,
    warnings: &mut Warnings,
) -> Result<T> {
    let before = warnings.len();
    let failed = match parse(json, what, warnings) {
        Ok(parsed) => return Ok(parsed),
        Err(failed) => failed,
    };
    // Looked for only now: hardly a config has any.
    let Ok(mut value) = serde_json::from_slice::<Value>(json) else {
        return Err(failed);
    };
    let Some(process) = value.pointer_mut(process) else {
        return Err(failed);
    };
    let unknown = process
        .get_mut("capabilities")
        .map(take_unknown)
        .unwrap_or_default();
    let respelled = respell(process);
    if unknown.is_empty() && !respelled {
        return Err(failed);
    }
    warnings.truncate(before);
    if !unknown.is_empty() {
        let shown = unknown.iter().take(UNKNOWN_KEYS_MAX).map(String::as_str);
        let mut names = shown.collect::<Vec<_>>().join(", ");
        if unknown.len() > UNKNOWN_KEYS_MAX {
            names += &format!(" and {} more", unknown.len() - UNKNOWN_KEYS_MAX);
        }
        warnings.push(format!("process: capabilities not known, ignored: {names}"));
    }
    parse(value.to_string().as_bytes(), what, warnings)
}

/// Flags of a scheduler, from the specification's words to the library's.
fn respell(process: &mut Value) -> bool {
    let mut respelled = false;
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let word = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = word.into();
        respelled = true;
    }
    respelled
}

fn take_unknown(sets: &mut Value) -> BTreeSet<String> {
    let mut unknown = BTreeSet::new();
    for set in sets.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(list) = set.as_array_mut() else {
            continue;
        };
        list.retain(|one| match one {
            Value::String(name) if Capability::deserialize(one).is_err() => {
                unknown.insert(name.clone());
                false
            }
            _ => true,
        });
    }
    unknown
}

fn parse<T: DeserializeOwned>(
    json: &[u8],
    what: &'static str,
    warnings: &mut Warnings,
) -> Result<T> {
    let failed = |source| Error::Parse { what, source };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut unknown = 0_usize;
    let parsed = serde_ignored::deserialize(&mut reader, |path| {
        unknown += 1;
        if unknown <= UNKNOWN_KEYS_MAX {
            warnings.push(format!("{what}: {path}: not a known key, ignored"));
        }
    })
    .map_err(failed)?;
    if unknown > UNKNOWN_KEYS_MAX {
        let more = unknown - UNKNOWN_KEYS_MAX;
        warnings.push(format!("{what}: {more} more keys not known, ignored"));
    }
    reader.end().map_err(failed)?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_knows_is_named_and_not_an_error() {
        let mut warnings = Warnings::new();
        let json = br#"{"ociVersion":"1.0.2","process":{"user":{},"cwd":"/","shoes":9}}"#;

        let spec = parse_config(json, &mut warnings).unwrap();

        assert!(spec.process().is_some());
        assert_eq!(
            warnings,
            ["config.json: process.?.shoes: not a known key, ignored"]
        );
    }

    #[test]
    fn a_capability_that_nobody_knows_is_told_and_not_an_error() {
        let mut warnings = Warnings::new();
        let json =
            br#"{"ociVersion":"1.2.0","shoes":1,"process":{"user":{},"cwd":"/","capabilities":
            {"bounding":["CAP_KILL","CAP_FLY"],"permitted":["CAP_FLY"]}}}"#;

        let spec = parse_config(json, &mut warnings).unwrap();

        let capabilities = spec
            .process()
            .as_ref()
            .unwrap()
            .capabilities()
            .clone()
            .unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
        assert_eq!(
            warnings,
            [
                "process: capabilities not known, ignored: CAP_FLY",
                "config.json: shoes: not a known key, ignored",
            ]
        );
        assert!(parse_process(br#"{"capabilities":{"bounding":[1]}}"#, &mut warnings).is_err());
    }

    #[test]
    fn flags_of_a_scheduler_have_the_words_of_the_specification() {
        let mut warnings = Warnings::new();
        let json = br#"{"user":{},"cwd":"/","scheduler":{"policy":"SCHED_DEADLINE",
            "flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN","SCHED_FLAG_RECLAIM"]}}"#;

        let process = parse_process(json, &mut warnings).unwrap();

        let scheduler = process.scheduler().clone().unwrap();
        assert_eq!(scheduler.flags().as_ref().unwrap().len(), 3);
        assert_eq!(warnings, Warnings::new());
    }

    #[test]
    fn text_after_the_json_is_an_error() {
        let mut warnings = Warnings::new();

        let parsed = parse_resources(b"{} {}", &mut warnings);

        assert!(matches!(
            parsed,
            Err(Error::Parse {
                what: "resources",
                ..
            })
        ));
    }
}
