//! Where a case is played: a folder that is made anew, alike for both runtimes, with the bundle in it.

use super::case::{Case, Change};
use crate::{bundle, scratch::Scratch};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files as large as this are shared between root file systems; nobody writes to a busybox.
const SHARED_BYTES_MIN: u64 = 64 * 1024;
/// What a case's container runs unless it says otherwise; as an init it hears no SIGTERM.
const USUAL: [&str; 2] = ["/bin/sleep", "100000"];

pub struct Place {
    scratch: Scratch,
    config: Value,
}

impl Place {
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let template = scratch.path().join("template");
        let args = USUAL.map(str::to_owned);
        let process = bundle::Process {
            args: &args,
            terminal: false,
        };
        bundle::busybox(&template, &process)?;
        let text = fs::read(template.join("config.json")).context("read the usual config")?;
        let config = serde_json::from_slice(&text).context("read the usual config")?;
        Ok(Self { scratch, config })
    }

    pub fn folder(&self) -> PathBuf {
        self.scratch.path().join("case")
    }

    pub fn bundle(&self) -> PathBuf {
        self.folder().join("b")
    }

    /// What is beside the case: runc's state, and what steps print.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The case's folder, and nothing in it of whoever was here before.
    pub fn lay_out(&self, case: &Case) -> Result<()> {
        let doing = || format!("lay out case {:?}", case.name);
        let (folder, bundle) = (self.folder(), self.bundle());
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(doing)?;
        }
        fs::create_dir_all(&bundle).with_context(doing)?;
        let template = self.scratch.path().join("template/rootfs");
        copy(&template, &bundle.join("rootfs")).with_context(doing)?;
        let mut config = self.config.clone();
        let mut text = None;
        let mut is_there = true;
        for change in &case.bundle {
            match change {
                Change::Set { pointer, value } => {
                    *at(&mut config, pointer) = self.told(value);
                }
                Change::Add { pointer, value } => {
                    let list = at(&mut config, pointer);
                    if list.is_null() {
                        *list = json!([]);
                    }
                    let list = list
                        .as_array_mut()
                        .context("not a list")
                        .with_context(doing)?;
                    list.push(self.told(value));
                }
                Change::Del { pointer } => remove(&mut config, pointer),
                Change::Write { name, text } => {
                    let path = self.words(name);
                    let path = folder.join(path);
                    fs::create_dir_all(path.parent().unwrap_or(&folder)).with_context(doing)?;
                    fs::write(&path, format!("{}\n", self.words(text))).with_context(doing)?;
                }
                Change::Config(raw) => text = Some(raw.clone()),
                Change::NoConfig => is_there = false,
            }
        }
        let text = text.unwrap_or_else(|| config.to_string());
        if is_there {
            fs::write(bundle.join("config.json"), text).with_context(doing)?;
        }
        Ok(())
    }

    /// Words with the names of places in them.
    pub fn words(&self, text: &str) -> String {
        text.replace("{case}", &self.folder().to_string_lossy())
            .replace("{bundle}", &self.bundle().to_string_lossy())
    }

    fn told(&self, value: &Value) -> Value {
        let text = self.words(&value.to_string());
        serde_json::from_str(&text).expect("paths of ours need no escape in JSON")
    }
}

/// What a pointer names, made where it is not there; in lists only what is there.
fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    let names = pointer.split('/').skip(1);
    names.fold(value, |value, name| match value {
        Value::Array(items) => {
            let number: usize = name.parse().expect("a list has numbers");
            &mut items[number]
        }
        other => &mut other[name],
    })
}

fn remove(value: &mut Value, pointer: &str) {
    if let Some((parent, name)) = pointer.rsplit_once('/')
        && let Some(members) = at(value, parent).as_object_mut()
    {
        members.remove(name);
    }
}

/// A tree as it is; what is large is the same file.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let copied = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&path, &copied)?;
        } else if kind.is_symlink() || entry.metadata()?.len() >= SHARED_BYTES_MIN {
            fs::hard_link(&path, &copied)?;
        } else {
            fs::copy(&path, &copied)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::case;

    #[test]
    fn a_bundle_has_what_its_case_changes() {
        if !Path::new(bundle::BUSYBOX).exists() {
            return;
        }
        let place = Place::new().unwrap();
        let text = "== a\nset /process/cwd \"{case}\"\nadd /linux/sysctl/x 1\nadd /process/env \"A=1\"\ndel /hostname\nwrite p/q r s\nstate one\n";
        let [case] = case::parse(text).unwrap().try_into().unwrap();

        place.lay_out(&case).unwrap();
        place.lay_out(&case).unwrap();

        let text = fs::read_to_string(place.bundle().join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["process"]["cwd"], json!(place.folder()));
        assert_eq!(config["linux"]["sysctl"]["x"], json!([1]));
        assert_eq!(config["process"]["env"][1], "A=1");
        assert_eq!(config["hostname"], Value::Null);
        assert!(
            place.bundle().join("rootfs/bin/sh").exists()
                || place.bundle().join("rootfs/bin/sh").is_symlink()
        );
        let written = fs::read_to_string(place.folder().join("p/q")).unwrap();
        assert_eq!(written, "r s\n");
    }
}
