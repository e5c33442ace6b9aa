//! Guest profiles: what boots in a sandbox, and how its agent is spoken to. The configuration
//! describes them, and each sandbox has one for its life.

use crate::{
    channel::{self, Channel},
    config::{ChannelChoice, Config, Guest, Kata},
    size::{self, Size},
};
use anyhow::{Context as _, Result, bail};
use protocols::annotations::GUEST_PROFILE;
use runtime_core::{error::Fault, hypervisor::StdioKind};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// Our own kernel and agent.
    Hutch,
    /// A guest whose agent is a stock one of Kata's.
    Kata,
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hutch => "hutch",
            Self::Kata => "kata",
        })
    }
}

/// A profile with everything decided that does not depend on the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    /// The disk that the kernel finds its root on.
    pub image: Option<PathBuf>,
    pub kernel_params: Vec<String>,
    pub size: Size,
    pub channel: Channel,
    pub stdio: StdioKind,
}

/// The profiles of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    default: ProfileName,
    hutch: Profile,
    /// Why there is none, if there is none.
    kata: Result<Profile, String>,
}

impl Profiles {
    /// # Errors
    /// A profile that sandboxes have by default, or that the configuration describes, cannot be had.
    pub fn of(config: &Config) -> Result<Self> {
        let default = config.guest.profile;
        let kata = match default == ProfileName::Kata || config.kata.is_described() {
            true => Ok(kata(config)?),
            false => Err("kata.kernel is not set".to_owned()),
        };
        Ok(Self {
            default,
            hutch: hutch(&config.guest)?,
            kata,
        })
    }

    /// The profile that these annotations ask for, in the size that they ask for.
    ///
    /// # Errors
    /// `Invalid`: there is none of that name, the configuration does not describe it, no sandbox has that size, or
    /// an annotation of ours is none.
    pub fn choose(&self, annotations: &BTreeMap<String, String>) -> Result<Profile, Fault> {
        size::check_known(annotations)?;
        let named = self.named(annotations)?;
        Ok(Profile {
            size: Size::asked(annotations, named.size)?,
            ..named.clone()
        })
    }

    fn named(&self, annotations: &BTreeMap<String, String>) -> Result<&Profile, Fault> {
        let name = match annotations.get(GUEST_PROFILE).map(String::as_str) {
            None => self.default,
            Some("hutch") => ProfileName::Hutch,
            Some("kata") => ProfileName::Kata,
            Some(other) => {
                let what = format!("guest profile {other:?} is none: hutch and kata are");
                return Err(Fault::invalid(what));
            }
        };
        match name {
            ProfileName::Hutch => Ok(&self.hutch),
            ProfileName::Kata => self.kata.as_ref().map_err(|why| {
                let what = format!("guest profile kata is not configured: {why}");
                Fault::invalid(what)
            }),
        }
    }

    /// Of sandboxes that ask for none.
    pub fn by_default(&self) -> &Profile {
        match (self.default, &self.kata) {
            (ProfileName::Kata, Ok(kata)) => kata,
            (ProfileName::Kata, Err(_)) | (ProfileName::Hutch, _) => &self.hutch,
        }
    }
}

fn hutch(guest: &Guest) -> Result<Profile> {
    Ok(Profile {
        kernel: guest.kernel.clone(),
        initrd: Some(guest.initrd.clone()),
        image: None,
        kernel_params: guest.kernel_params.clone(),
        size: Size {
            vcpus: guest.vcpus,
            memory_mib: guest.memory_mib,
        },
        channel: channel::choose(guest.channel)?,
        stdio: StdioKind::Ports,
    })
}

fn kata(config: &Config) -> Result<Profile> {
    let kata = &config.kata;
    kata.check()?;
    let channel = kata_channel(kata.channel)?;
    let backend = &config.hypervisor.vsock_backend;
    if channel == Channel::HybridVsock && !backend.is_file() {
        let backend = backend.display();
        bail!("hypervisor.vsock_backend: {backend} is not a file, and kata.channel needs it");
    }
    Ok(Profile {
        kernel: kata.kernel.clone(),
        initrd: set(&kata.initrd),
        image: set(&kata.image),
        kernel_params: kata.kernel_params.clone(),
        size: Size {
            vcpus: kata.vcpus,
            memory_mib: kata.memory_mib,
        },
        channel,
        stdio: StdioKind::Calls,
    })
}

/// A stock agent listens on vsock alone: auto is never serial.
fn kata_channel(choice: ChannelChoice) -> Result<Channel> {
    let chosen = channel::choose(choice).context("kata.channel")?;
    Ok(match (choice, chosen) {
        (ChannelChoice::Auto, Channel::Serial) => Channel::HybridVsock,
        (_, chosen) => chosen,
    })
}

fn set(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

impl Kata {
    /// Whether the configuration says anything of what boots.
    pub fn is_described(&self) -> bool {
        let paths = [&self.kernel, &self.initrd, &self.image];
        paths.into_iter().any(|path| set(path).is_some())
    }

    /// The files that a guest of this kind cannot do without.
    ///
    /// # Errors
    /// Names the key of the first that is not set, not there, or one too many.
    pub fn check(&self) -> Result<()> {
        let named = [
            ("kata.kernel", set(&self.kernel)),
            ("kata.initrd", set(&self.initrd)),
            ("kata.image", set(&self.image)),
        ];
        match &named {
            [(_, None), ..] => bail!("kata.kernel is not set: there is nothing to boot"),
            [_, (_, None), (_, None)] => {
                bail!("neither kata.initrd nor kata.image is set: one holds the agent")
            }
            [_, (_, Some(initrd)), (_, Some(image))] => bail!(
                "kata.initrd ({}) and kata.image ({}) are both set: a guest is of one of them",
                initrd.display(),
                image.display()
            ),
            _ => {}
        }
        for (key, path) in named {
            if let Some(path) = path.filter(|path| !path.is_file()) {
                bail!("{key}: {} is not a file", path.display());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, Kata) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let kata = Kata {
            kernel: path("vmlinux"),
            image: path("image"),
            channel: ChannelChoice::Serial,
            ..Kata::default()
        };
        (folder, kata)
    }

    fn asks(profile: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(GUEST_PROFILE.to_owned(), profile.to_owned())])
    }

    fn config(default: ProfileName, kata: Kata) -> Config {
        let mut config = Config::default();
        config.guest.profile = default;
        config.guest.channel = ChannelChoice::Serial;
        config.kata = kata;
        config
    }

    #[test]
    fn a_sandbox_has_the_profile_that_it_asks_for_and_the_default_elsewhere() {
        let (_folder, kata) = files();
        let image = kata.image.clone();
        let profiles = Profiles::of(&config(ProfileName::Hutch, kata)).unwrap();

        let plain = profiles.choose(&BTreeMap::new()).unwrap();
        let asked = profiles.choose(&asks("kata")).unwrap();
        let other = profiles.choose(&asks("windows")).unwrap_err();

        assert_eq!((plain.stdio, &plain.image), (StdioKind::Ports, &None));
        assert_eq!(
            (asked.stdio, &asked.image),
            (StdioKind::Calls, &Some(image))
        );
        assert_eq!(asked.initrd, None);
        assert_eq!((plain.size.memory_mib, asked.size.memory_mib), (256, 512));
        assert!(other.to_string().contains("windows"), "{other}");
    }

    #[test]
    fn the_default_may_be_the_stock_one() {
        let (_folder, kata) = files();

        let profiles = Profiles::of(&config(ProfileName::Kata, kata)).unwrap();

        assert_eq!(profiles.by_default().stdio, StdioKind::Calls);
        let own = profiles.choose(&asks("hutch")).unwrap();
        assert_eq!(own.stdio, StdioKind::Ports);
    }

    #[test]
    fn what_is_missing_of_a_described_profile_is_named() {
        let (_folder, whole) = files();
        let without = |change: fn(&mut Kata)| {
            let mut kata = whole.clone();
            change(&mut kata);
            Profiles::of(&config(ProfileName::Hutch, kata)).unwrap_err()
        };

        let kernel = without(|kata| kata.kernel = PathBuf::new());
        let absent = without(|kata| kata.image = "/nonexistent/image".into());
        let agent = Kata {
            image: PathBuf::new(),
            ..whole.clone()
        };
        let agent = Profiles::of(&config(ProfileName::Hutch, agent)).unwrap_err();

        assert!(kernel.to_string().contains("kata.kernel is not set"));
        assert!(
            absent
                .to_string()
                .contains("kata.image: /nonexistent/image")
        );
        assert!(agent.to_string().contains("kata.initrd"), "{agent}");
    }

    #[test]
    fn an_initrd_beside_an_image_is_one_too_many() {
        let (folder, kata) = files();
        let initrd = folder.path().join("initrd");
        std::fs::write(&initrd, "").unwrap();
        let both = Kata { initrd, ..kata };

        let refused = Profiles::of(&config(ProfileName::Hutch, both)).unwrap_err();

        let text = refused.to_string();
        assert!(
            text.contains("kata.initrd") && text.contains("kata.image"),
            "{text}"
        );
    }

    #[test]
    fn a_channel_without_its_program_is_refused_when_the_daemon_starts() {
        let (_folder, kata) = files();
        let mut config = config(ProfileName::Hutch, kata);
        config.kata.channel = ChannelChoice::HybridVsock;
        config.hypervisor.vsock_backend = "/nonexistent/backend".into();

        let refused = Profiles::of(&config).unwrap_err();

        assert!(refused.to_string().contains("vsock_backend"), "{refused}");
    }

    #[test]
    fn a_profile_that_nobody_described_is_refused_to_who_asks_for_it() {
        let plain = config(ProfileName::Hutch, Kata::default());
        let profiles = Profiles::of(&plain).unwrap();

        let refused = profiles.choose(&asks("kata")).unwrap_err();

        assert!(refused.to_string().contains("kata.kernel is not set"));
        let default = config(ProfileName::Kata, Kata::default());
        assert!(Profiles::of(&default).is_err());
    }
}
