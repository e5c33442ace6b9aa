//! Reads config.json and its parts, and names every key that nobody here knows.

use super::error::{Error, Result};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::de::DeserializeOwned;

/// More unknown keys than this are not told one by one.
const UNKNOWN_KEYS_MAX: usize = 32;

/// What was asked for and cannot be honoured, each named.
pub type Warnings = Vec<String>;

/// # Errors
/// When it is not the JSON of a config.json.
pub fn parse_config(json: &[u8], warnings: &mut Warnings) -> Result<Spec> {
    parse(json, "config.json", warnings)
}

/// # Errors
/// When it is not the JSON of an OCI process.
pub fn parse_process(json: &[u8], warnings: &mut Warnings) -> Result<Process> {
    parse(json, "process.json", warnings)
}

/// # Errors
/// When it is not the JSON of OCI resources.
pub fn parse_resources(json: &[u8], warnings: &mut Warnings) -> Result<LinuxResources> {
    parse(json, "resources", warnings)
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
