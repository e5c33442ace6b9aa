//! Mounts of config.json: their options have the words of mount(8), and a few of OCI's own.

use super::{c_string, id_map, invalid, plain_path};
use crate::engine::{
    error::Result,
    plan::{AttrChange, MappedIds, MountStep, MountWhat},
    spec::Warnings,
};
use oci_spec::runtime::Mount;
use std::{collections::BTreeMap, path::PathBuf};

const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;
/// Not in libc for this target: from linux/mount.h.
const MS_NOSYMFOLLOW: u64 = 256;
const MS_LAZYTIME: u64 = 1 << 25;

/// What a word does: to the MS_* flags of a new mount, and to the attributes of a bind.
struct Word {
    set: u64,
    clear: u64,
    attr: AttrChange,
}

/// Options of one mount, sorted.
#[derive(Debug, Default)]
struct Options {
    flags: u64,
    attr: AttrChange,
    recursive: AttrChange,
    propagation: Vec<u32>,
    data: Vec<String>,
    bind: Option<Bind>,
    remount: bool,
    copy_up: bool,
    idmap: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bind {
    One,
    Recursive,
}

/// # Errors
/// A mount that makes no sense, or that the guest cannot make.
pub fn lower_mounts(
    mounts: &[Mount],
    sources: &BTreeMap<usize, PathBuf>,
    own_ids: Option<&(String, String)>,
    warnings: &mut Warnings,
) -> Result<Vec<MountStep>> {
    if let Some((index, _)) = sources.range(mounts.len()..).next() {
        return invalid(format!("source of mount {index}"), "there is no such mount");
    }
    mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| {
            if sources.contains_key(&index) {
                warn_of_the_border(index, mount, warnings);
            }
            let mut step = lower_mount(index, mount, sources.get(&index), warnings)?;
            if let MountWhat::Bind { mapped, .. } = &mut step.what {
                *mapped = mapped_ids(mount, own_ids, &about(index, &step.destination))?;
            }
            Ok(step)
        })
        .collect()
}

/// Mounts of the host and of the guest are no peers of each other.
fn warn_of_the_border(index: usize, mount: &Mount, warnings: &mut Warnings) {
    let crosses = |word: &&String| matches!(word.trim_start_matches('r'), "shared" | "slave");
    if let Some(word) = mount.options().iter().flatten().find(crosses) {
        warnings.push(format!(
            "mounts[{index}]: propagation {word} ends at the vm: what is mounted below the source later is not seen on the other side"
        ));
    }
}

fn lower_mount(
    index: usize,
    mount: &Mount,
    source: Option<&PathBuf>,
    warnings: &mut Warnings,
) -> Result<MountStep> {
    let given = plain_path(mount.destination(), || format!("mount {index}"))?;
    let destination = if given.starts_with('/') {
        given
    } else if given.is_empty() {
        return invalid(format!("mount {index}"), "it has no destination");
    } else {
        warnings.push(format!(
            "mount {index} on {given:?}: its destination is not absolute, taken from /"
        ));
        format!("/{given}")
    };
    let what = || about(index, &destination);
    let mut options = Options::default();
    for word in mount.options().iter().flatten() {
        options.take(word);
    }
    if options.bind.is_none() && mount.typ().as_deref() == Some("bind") {
        options.bind = Some(Bind::One);
    }
    let source = source.or(mount.source().as_ref());
    let source = source
        .map(|path| plain_path(path, || format!("{}: source", what())))
        .transpose()?;
    Ok(MountStep {
        index,
        what: options.what(mount, source, &what)?,
        propagation: options.propagation,
        recursive: options.recursive,
        destination,
    })
}

impl Options {
    fn take(&mut self, word: &str) {
        if let Some(effect) = flag(word) {
            self.flags = self.flags & !effect.clear | effect.set;
            merge(&mut self.attr, effect.attr);
            return;
        }
        if let Some(flags) = propagation(word) {
            self.propagation.push(flags);
            return;
        }
        match word {
            "bind" => self.bind = Some(Bind::One),
            "rbind" => self.bind = Some(Bind::Recursive),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            // Looked for by `mapped_ids`.
            "idmap" | "ridmap" => self.idmap = true,
            _ => match word.strip_prefix('r').and_then(flag) {
                // "rro" and the like; the words above that begin with r were taken already.
                Some(effect) if !effect.attr.is_none() => merge(&mut self.recursive, effect.attr),
                _ => self.data.push(word.to_owned()),
            },
        }
    }

    fn what(
        &self,
        mount: &Mount,
        source: Option<String>,
        what: &dyn Fn() -> String,
    ) -> Result<MountWhat> {
        let data = match self.data.join(",") {
            none if none.is_empty() => None,
            data => Some(c_string(&data, || format!("{}: options", what()))?),
        };
        let flags = u32::try_from(self.flags).expect("flags of mount(2) have 32 bits");
        if self.copy_up && (self.bind.is_some() || mount.typ().as_deref() != Some("tmpfs")) {
            return invalid(what(), "option tmpcopyup is for a new tmpfs only");
        }
        let mapped = self.idmap || mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        if mapped && (self.bind.is_none() || self.remount) {
            return invalid(what(), "only a bind mount can have mapped ids");
        }
        if self.remount {
            // Of a bind mount it is the mount that changes, not what others have of its file system. So it is with
            // cgroups: their options are the whole guest's.
            let is_mount_alone =
                self.bind.is_some() || matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
            return Ok(match is_mount_alone {
                true => MountWhat::Remount {
                    flags: flags | libc::MS_BIND as u32,
                    data: None,
                },
                false => MountWhat::Remount { flags, data },
            });
        }
        if let Some(bind) = self.bind {
            return match source {
                Some(source) if source.starts_with('/') => Ok(MountWhat::Bind {
                    given: mount
                        .source()
                        .as_ref()
                        .map_or_else(|| source.clone(), |path| path.display().to_string()),
                    source,
                    recursive: bind == Bind::Recursive,
                    attr: self.attr,
                    mapped: None,
                }),
                Some(source) => invalid(what(), format!("its source {source:?} is not absolute")),
                None => invalid(what(), "it has no source"),
            };
        }
        match mount.typ().as_deref() {
            None | Some("" | "none") => invalid(what(), "it has no type"),
            // The guest has the second version only, whose options are the kernel's own.
            Some("cgroup" | "cgroup2") => Ok(MountWhat::FileSystem {
                kind: "cgroup2".to_owned(),
                source: "cgroup".to_owned(),
                flags,
                // Whoever mounts it outside of a cgroup namespace says for the whole guest whether limits that others
                // made for a container are out of its reach (cgroup_namespaces(7), cgroup-v2 "Delegation").
                data: Some(c"nsdelegate".to_owned()),
                no_links: true,
                copy_up: false,
            }),
            Some(kind) => Ok(MountWhat::FileSystem {
                source: source.unwrap_or_else(|| kind.to_owned()),
                flags,
                data,
                no_links: matches!(kind, "proc" | "sysfs"),
                copy_up: self.copy_up,
                kind: kind.to_owned(),
            }),
        }
    }
}

/// Its own, or else those of the container.
fn mapped_ids(
    mount: &Mount,
    own_ids: Option<&(String, String)>,
    what: &str,
) -> Result<Option<MappedIds>> {
    let word = |wanted: &str| mount.options().iter().flatten().any(|word| word == wanted);
    let given = (
        mount.uid_mappings().as_deref().unwrap_or_default(),
        mount.gid_mappings().as_deref().unwrap_or_default(),
    );
    let (uids, gids) = match given {
        ([], []) if !word("idmap") && !word("ridmap") => return Ok(None),
        ([], []) => match own_ids {
            Some(own) => own.clone(),
            None => return invalid(what, "has no id mappings, and the container has none"),
        },
        ([], _) | (_, []) => return invalid(what, "has no uidMappings or no gidMappings"),
        (uids, gids) => (id_map(uids), id_map(gids)),
    };
    Ok(Some(MappedIds {
        uids,
        gids,
        recursive: word("ridmap"),
    }))
}

fn about(index: usize, destination: &str) -> String {
    format!("mount {index} on {destination:?}")
}

fn merge(into: &mut AttrChange, change: AttrChange) {
    into.set = into.set & !change.clear | change.set;
    into.clear = into.clear & !change.set | change.clear;
}

fn flag(word: &str) -> Option<Word> {
    let sets = |flag: u64, attr: u64| Word {
        set: flag,
        clear: 0,
        attr: AttrChange {
            set: attr,
            clear: 0,
        },
    };
    let clears = |flag: u64, attr: u64| Word {
        set: 0,
        clear: flag,
        attr: AttrChange {
            set: 0,
            clear: attr,
        },
    };
    // The kinds of access time exclude each other: all are cleared, then one is set.
    let atime = |flag: u64, attr: u64| Word {
        set: flag,
        clear: libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME,
        attr: AttrChange {
            set: attr,
            clear: ATIME_MASK,
        },
    };
    Some(match word {
        "defaults" | "async" | "loud" | "nomand" | "noiversion" | "nolazytime" | "noacl" => {
            clears(default_clears(word), 0)
        }
        "ro" => sets(libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        "rw" => clears(libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => sets(libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        "suid" => clears(libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        "nodev" => sets(libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        "dev" => clears(libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        "noexec" => sets(libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        "exec" => clears(libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => sets(libc::MS_NODIRATIME, NODIRATIME),
        "diratime" => clears(libc::MS_NODIRATIME, NODIRATIME),
        "nosymfollow" => sets(MS_NOSYMFOLLOW, NOSYMFOLLOW),
        "symfollow" => clears(MS_NOSYMFOLLOW, NOSYMFOLLOW),
        "noatime" => atime(libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        "strictatime" => atime(libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        "relatime" => atime(libc::MS_RELATIME, libc::MOUNT_ATTR_RELATIME),
        "atime" | "norelatime" | "nostrictatime" => atime(0, libc::MOUNT_ATTR_RELATIME),
        "sync" => sets(libc::MS_SYNCHRONOUS, 0),
        "dirsync" => sets(libc::MS_DIRSYNC, 0),
        "silent" => sets(libc::MS_SILENT, 0),
        "mand" => sets(libc::MS_MANDLOCK, 0),
        "iversion" => sets(libc::MS_I_VERSION, 0),
        "lazytime" => sets(MS_LAZYTIME, 0),
        "acl" => sets(libc::MS_POSIXACL, 0),
        _ => return None,
    })
}

fn default_clears(word: &str) -> u64 {
    match word {
        "async" => libc::MS_SYNCHRONOUS,
        "loud" => libc::MS_SILENT,
        "nomand" => libc::MS_MANDLOCK,
        "noiversion" => libc::MS_I_VERSION,
        "nolazytime" => MS_LAZYTIME,
        "noacl" => libc::MS_POSIXACL,
        _ => 0,
    }
}

/// MS_* propagation for its word in config.json.
pub fn propagation(word: &str) -> Option<u32> {
    let (kind, recursive) = match word.strip_prefix('r') {
        Some(kind) => (kind, libc::MS_REC),
        None => (word, 0),
    };
    let kind = match kind {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    u32::try_from(kind | recursive).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(json: &str) -> Result<MountStep> {
        let mount: Mount = serde_json::from_str(json).unwrap();
        lower_mount(0, &mount, None, &mut Warnings::new())
    }

    #[test]
    fn words_become_flags_and_the_rest_is_for_the_file_system() {
        let step = lower(
            r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs",
                "options":["nosuid","strictatime","mode=755","size=65536k"]}"#,
        );

        let MountWhat::FileSystem {
            kind, flags, data, ..
        } = step.unwrap().what
        else {
            panic!("not a file system");
        };
        assert_eq!(kind, "tmpfs");
        assert_eq!(u64::from(flags), libc::MS_NOSUID | libc::MS_STRICTATIME);
        assert_eq!(data.as_deref(), Some(c"mode=755,size=65536k"));
    }

    /// Each word that a mount may have for a flag, with the words that take it back.
    const WORDS: [(&str, u64, u64, &[&str]); 17] = [
        ("ro", libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY, &["rw"]),
        (
            "nosuid",
            libc::MS_NOSUID,
            libc::MOUNT_ATTR_NOSUID,
            &["suid"],
        ),
        ("nodev", libc::MS_NODEV, libc::MOUNT_ATTR_NODEV, &["dev"]),
        (
            "noexec",
            libc::MS_NOEXEC,
            libc::MOUNT_ATTR_NOEXEC,
            &["exec"],
        ),
        ("nodiratime", libc::MS_NODIRATIME, NODIRATIME, &["diratime"]),
        ("nosymfollow", MS_NOSYMFOLLOW, NOSYMFOLLOW, &["symfollow"]),
        (
            "noatime",
            libc::MS_NOATIME,
            libc::MOUNT_ATTR_NOATIME,
            &["atime", "norelatime", "nostrictatime"],
        ),
        (
            "strictatime",
            libc::MS_STRICTATIME,
            libc::MOUNT_ATTR_STRICTATIME,
            &["atime", "norelatime", "nostrictatime"],
        ),
        (
            "relatime",
            libc::MS_RELATIME,
            0,
            &["atime", "norelatime", "nostrictatime"],
        ),
        ("sync", libc::MS_SYNCHRONOUS, 0, &["async"]),
        ("dirsync", libc::MS_DIRSYNC, 0, &[]),
        ("silent", libc::MS_SILENT, 0, &["loud"]),
        ("mand", libc::MS_MANDLOCK, 0, &["nomand"]),
        ("iversion", libc::MS_I_VERSION, 0, &["noiversion"]),
        ("lazytime", 1 << 25, 0, &["nolazytime"]),
        ("acl", libc::MS_POSIXACL, 0, &["noacl"]),
        ("defaults", 0, 0, &[]),
    ];

    /// What a new file system gets of these words, and what a bind.
    fn effect(words: &[&str]) -> (u64, AttrChange) {
        let options = serde_json::to_string(&words).unwrap();
        let mount = |rest: &str| {
            lower(&format!(
                r#"{{"destination":"/x","source":"/s",{rest},"options":{options}}}"#
            ))
        };
        let new = mount(r#""type":"ext4""#).unwrap();
        let MountWhat::FileSystem { flags, data, .. } = new.what else {
            panic!("not a file system");
        };
        assert_eq!(data, None, "{words:?} are not for the file system");
        assert!(new.recursive.is_none() && new.propagation.is_empty());
        let MountWhat::Bind { attr, .. } = mount(r#""type":"bind""#).unwrap().what else {
            panic!("not a bind");
        };
        (flags.into(), attr)
    }

    #[test]
    fn each_word_of_a_mount_is_a_flag_and_its_opposite_takes_it_back() {
        for (word, flag, attr, opposites) in WORDS {
            let (flags, change) = effect(&[word]);

            assert_eq!((flags, change.set), (flag, attr), "{word}");
            for opposite in opposites {
                let (flags, change) = effect(&[word, opposite]);
                assert_eq!((flags, change.set), (0, 0), "{word}, {opposite}");
                let (flags, change) = effect(&[opposite, word]);
                assert_eq!((flags, change.set), (flag, attr), "{opposite}, {word}");
            }
        }
    }

    #[test]
    fn a_word_leaves_the_flags_of_others_as_they_are() {
        for (word, flag, ..) in WORDS {
            // Of the kinds of access time there is one at a time.
            if ["noatime", "strictatime", "relatime"].contains(&word) {
                continue;
            }
            for (other, other_flag, _, opposites) in WORDS {
                if word == other {
                    continue;
                }
                assert_eq!(
                    effect(&[word, other]).0,
                    flag | other_flag,
                    "{word}, {other}"
                );
                for opposite in opposites {
                    assert_eq!(effect(&[word, opposite]).0, flag, "{word}, {opposite}");
                }
            }
        }
    }

    #[test]
    fn a_bind_keeps_its_propagation_and_what_it_forbids() {
        let step = lower(
            r#"{"destination":"/data","source":"/src","options":["rbind","rprivate","ro","rnosuid"]}"#,
        )
        .unwrap();

        let MountWhat::Bind {
            source,
            recursive,
            attr,
            ..
        } = step.what
        else {
            panic!("not a bind");
        };
        assert_eq!((source.as_str(), recursive), ("/src", true));
        assert_eq!(
            attr,
            AttrChange {
                set: libc::MOUNT_ATTR_RDONLY,
                clear: 0
            }
        );
        assert_eq!(
            step.recursive,
            AttrChange {
                set: libc::MOUNT_ATTR_NOSUID,
                clear: 0
            }
        );
        assert_eq!(step.propagation, [(libc::MS_PRIVATE | libc::MS_REC) as u32]);
    }

    #[test]
    fn the_last_of_two_words_that_disagree_wins() {
        let step = lower(r#"{"destination":"/x","source":"/s","options":["bind","ro","rw"]}"#);

        let MountWhat::Bind { attr, .. } = step.unwrap().what else {
            panic!("not a bind");
        };
        assert_eq!(
            attr,
            AttrChange {
                set: 0,
                clear: libc::MOUNT_ATTR_RDONLY
            }
        );
    }

    #[test]
    fn cgroups_are_the_guests_whatever_version_was_asked_for() {
        let step = lower(
            r#"{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup",
                "options":["nosuid","noexec","nodev","relatime","ro"]}"#,
        );

        let MountWhat::FileSystem { kind, data, .. } = step.unwrap().what else {
            panic!("not a file system");
        };
        assert_eq!(
            (kind.as_str(), data.as_deref()),
            ("cgroup2", Some(c"nsdelegate"))
        );
    }

    #[test]
    fn a_remount_of_a_bind_or_of_cgroups_changes_that_mount_alone() {
        let alone = |text: &str| match lower(text).unwrap().what {
            MountWhat::Remount { flags, .. } => flags & libc::MS_BIND as u32 != 0,
            what => panic!("{what:?}"),
        };

        for (typ, options, expected) in [
            ("none", r#""bind","remount","ro""#, true),
            ("cgroup", r#""remount","rw""#, true),
            ("cgroup2", r#""remount","ro""#, true),
            ("tmpfs", r#""remount","size=1m""#, false),
        ] {
            let text = format!(
                r#"{{"destination":"/x","type":"{typ}","source":"/y","options":[{options}]}}"#
            );
            assert_eq!(alone(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_mounted_is_named() {
        let nowhere = lower(r#"{"destination":"","type":"tmpfs"}"#).unwrap_err();
        let copied = lower(r#"{"destination":"/x","source":"/s","options":["bind","tmpcopyup"]}"#);
        let nothing = lower(r#"{"destination":"/x","options":["bind"]}"#).unwrap_err();

        assert_eq!(nowhere.to_string(), "mount 0: it has no destination");
        assert_eq!(
            copied.unwrap_err().to_string(),
            r#"mount 0 on "/x": option tmpcopyup is for a new tmpfs only"#
        );
        assert_eq!(nothing.to_string(), r#"mount 0 on "/x": it has no source"#);
    }

    #[test]
    fn ids_are_mapped_as_the_mount_says_or_as_the_containers_are() {
        let lower = |json: &str, own: Option<&(String, String)>| -> Result<_> {
            let mount: Mount = serde_json::from_str(json).unwrap();
            let mut steps = lower_mounts(&[mount], &BTreeMap::new(), own, &mut Warnings::new())?;
            match steps.remove(0).what {
                MountWhat::Bind { mapped, .. } => Ok(mapped),
                other => panic!("{other:?}"),
            }
        };
        let own = ("0 7 1\n".to_owned(), "0 8 1\n".to_owned());
        let map = |uids: &str, gids: &str, recursive| {
            Some(MappedIds {
                uids: uids.to_owned(),
                gids: gids.to_owned(),
                recursive,
            })
        };
        let plain = r#"{"destination":"/x","source":"/s","options":["bind"]}"#;
        let by_word = r#"{"destination":"/x","source":"/s","options":["rbind","ridmap"]}"#;
        let by_map = r#"{"destination":"/x","source":"/s","options":["bind"],
            "uidMappings":[{"containerID":0,"hostID":1000,"size":5}],
            "gidMappings":[{"containerID":0,"hostID":2000,"size":5}]}"#;
        let half = r#"{"destination":"/x","source":"/s","options":["bind","idmap"],
            "uidMappings":[{"containerID":0,"hostID":1000,"size":5}]}"#;
        let tmpfs = r#"{"destination":"/x","type":"tmpfs","options":["idmap"]}"#;

        assert_eq!(lower(plain, Some(&own)).unwrap(), None);
        assert_eq!(
            lower(by_word, Some(&own)).unwrap(),
            map("0 7 1\n", "0 8 1\n", true)
        );
        assert_eq!(
            lower(by_map, None).unwrap(),
            map("0 1000 5\n", "0 2000 5\n", false)
        );
        for refused in [lower(by_word, None), lower(half, None), lower(tmpfs, None)] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.starts_with(r#"mount 0 on "/x": "#), "{refused}");
        }
    }

    #[test]
    fn propagation_that_ends_at_the_vm_is_told_once_and_only_of_the_hosts_mounts() {
        let mounts = [
            r#"{"destination":"/a","source":"/s","options":["bind","rslave","rshared"]}"#,
            r#"{"destination":"/b","source":"/s","options":["bind","rprivate"]}"#,
            r#"{"destination":"/c","source":"/s","options":["bind","rshared"]}"#,
        ]
        .map(|json| serde_json::from_str(json).unwrap());
        let sources = BTreeMap::from([(0, PathBuf::from("/x")), (1, PathBuf::from("/x"))]);
        let mut warnings = Warnings::default();

        lower_mounts(&mounts, &sources, None, &mut warnings).unwrap();

        let told: Vec<String> = warnings.into_iter().collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("mounts[0]: propagation rslave ends at the vm"));
    }

    #[test]
    fn a_source_for_a_mount_that_is_not_there_is_refused() {
        let sources = BTreeMap::from([(3, PathBuf::from("/x"))]);

        let lowered = lower_mounts(&[], &sources, None, &mut Warnings::new());

        assert_eq!(
            lowered.unwrap_err().to_string(),
            "source of mount 3: there is no such mount"
        );
    }
}
