//! Volumes and sockets of a sandbox as a command line writes them: `tag:path` and
//! `device:id:path:name`, several of them separated by single spaces.
//!
//! Neither a colon nor a space can be in a field, so what is printed can be read again. A list that
//! is wrong somewhere adds nothing.

use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// One command line has few of them, and an API none that is longer.
const LISTED_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    #[error(
        "wrong string format: {found:?}, expecting only {expected} parameters separated with \":\""
    )]
    Count { found: String, expected: usize },
    #[error("{what} parameters cannot be empty: {found:?}")]
    Empty { what: &'static str, found: String },
    /// It could not be printed and read again.
    #[error("{what} {found:?} holds a colon or a space")]
    Separator { what: &'static str, found: String },
    #[error("more than {LISTED_MAX} {what}s")]
    TooMany { what: &'static str },
}

/// A directory of the host under the name by which a guest mounts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub tag: String,
    pub path: PathBuf,
}

/// A socket of the host that is one device of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    pub device: String,
    pub id: String,
    pub path: PathBuf,
    pub name: String,
}

/// What can be written in a list.
pub trait Listed: Sized {
    const WHAT: &'static str;
    const FIELDS: usize;

    /// As many as there are, none of them empty.
    fn from_fields(fields: Vec<String>) -> Self;
    fn fields(&self) -> Vec<String>;
}

impl Listed for Volume {
    const WHAT: &'static str = "volume";
    const FIELDS: usize = 2;

    fn from_fields(fields: Vec<String>) -> Self {
        let [tag, path] = fields.try_into().expect("the fields were counted");
        Self {
            tag,
            path: path.into(),
        }
    }

    fn fields(&self) -> Vec<String> {
        vec![self.tag.clone(), self.path.display().to_string()]
    }
}

impl Listed for Socket {
    const WHAT: &'static str = "socket";
    const FIELDS: usize = 4;

    fn from_fields(fields: Vec<String>) -> Self {
        let [device, id, path, name] = fields.try_into().expect("the fields were counted");
        Self {
            device,
            id,
            path: path.into(),
            name,
        }
    }

    fn fields(&self) -> Vec<String> {
        vec![
            self.device.clone(),
            self.id.clone(),
            self.path.display().to_string(),
            self.name.clone(),
        ]
    }
}

/// Volumes or sockets, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(Vec<T>);

pub type Volumes = List<Volume>;
pub type Sockets = List<Socket>;

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Listed> List<T> {
    /// Appends what the text says, all of it or nothing.
    ///
    /// # Errors
    /// A part of the text that has too few or too many fields, or an empty one.
    pub fn set(&mut self, text: &str) -> Result<(), InvalidList> {
        let added: Vec<T> = text.split(' ').map(one).collect::<Result<_, _>>()?;
        if self.0.len() + added.len() > LISTED_MAX {
            return Err(InvalidList::TooMany { what: T::WHAT });
        }
        self.0.extend(added);
        Ok(())
    }

    /// # Errors
    /// A field is empty, or holds what separates fields or entries.
    pub fn push(&mut self, entry: T) -> Result<(), InvalidList> {
        let what = T::WHAT;
        for found in entry.fields() {
            if found.is_empty() {
                return Err(InvalidList::Empty { what, found });
            }
            if found.contains([':', ' ']) {
                return Err(InvalidList::Separator { what, found });
            }
        }
        if self.0.len() >= LISTED_MAX {
            return Err(InvalidList::TooMany { what });
        }
        self.0.push(entry);
        Ok(())
    }

    pub fn entries(&self) -> &[T] {
        &self.0
    }
}

fn one<T: Listed>(text: &str) -> Result<T, InvalidList> {
    let fields: Vec<String> = text.split(':').map(str::to_owned).collect();
    if fields.len() != T::FIELDS {
        return Err(InvalidList::Count {
            found: text.to_owned(),
            expected: T::FIELDS,
        });
    }
    if fields.iter().any(String::is_empty) {
        return Err(InvalidList::Empty {
            what: T::WHAT,
            found: text.to_owned(),
        });
    }
    Ok(T::from_fields(fields))
}

impl<T: Listed> FromStr for List<T> {
    type Err = InvalidList;

    fn from_str(text: &str) -> Result<Self, InvalidList> {
        let mut list = Self::default();
        list.set(text)?;
        Ok(list)
    }
}

impl<T: Listed> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.0.iter().map(|one| one.fields().join(":")).collect();
        f.write_str(&entries.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn volumes_and_sockets_are_read_field_by_field() {
        let volumes: Volumes = "data:/srv/data logs:/var/log".parse().unwrap();
        let sockets: Sockets = "serial0:console0:/run/c.sock:console".parse().unwrap();

        let [data, logs] = volumes.entries() else {
            panic!("{volumes:?}")
        };
        assert_eq!((&*data.tag, &*data.path), ("data", "/srv/data".as_ref()));
        assert_eq!((&*logs.tag, &*logs.path), ("logs", "/var/log".as_ref()));
        let [socket] = sockets.entries() else {
            panic!("{sockets:?}")
        };
        assert_eq!((&*socket.device, &*socket.id), ("serial0", "console0"));
        assert_eq!(
            (&*socket.path, &*socket.name),
            ("/run/c.sock".as_ref(), "console")
        );
    }

    #[test]
    fn setting_again_appends_and_what_is_wrong_adds_nothing() {
        let mut volumes = Volumes::default();
        volumes.set("a:/a").unwrap();
        volumes.set("b:/b").unwrap();

        let wrong = volumes.set("c:/c d");

        assert!(wrong.is_err());
        assert_eq!(volumes.to_string(), "a:/a b:/b");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let volume = |text: &str| text.parse::<Volumes>().unwrap_err().to_string();
        let socket = |text: &str| text.parse::<Sockets>().unwrap_err().to_string();

        for (said, expected) in [
            (
                volume("a"),
                r#""a", expecting only 2 parameters separated with ":""#,
            ),
            (volume("a:b:c"), r#""a:b:c", expecting only 2 parameters"#),
            (volume(""), r#""", expecting only 2 parameters"#),
            (volume("a:/a  b:/b"), r#""", expecting only 2 parameters"#),
            (volume("a:"), "volume parameters cannot be empty"),
            (volume(":/a"), "volume parameters cannot be empty"),
            (socket("a:b:c"), r#""a:b:c", expecting only 4 parameters"#),
            (socket("a:b::d"), "socket parameters cannot be empty"),
        ] {
            assert!(said.contains(expected), "{said}");
        }
        let many = vec!["t:/p"; LISTED_MAX + 1].join(" ");
        assert_eq!(volume(&many), "more than 1024 volumes");
    }

    #[test]
    fn what_could_not_be_read_again_is_not_taken() {
        let mut volumes = Volumes::default();
        for path in ["", "/a:b", "/a b"] {
            let entry = Volume {
                tag: "t".to_owned(),
                path: path.into(),
            };
            assert!(volumes.push(entry).is_err(), "{path:?}");
        }
        assert_eq!(volumes, Volumes::default());
    }

    proptest! {
        #[test]
        fn volumes_that_are_printed_are_read_again(
            fields in vec(("[^: ]{1,12}", "/[^: ]{0,40}"), 1..8),
        ) {
            let mut volumes = Volumes::default();
            for (tag, path) in fields {
                volumes.push(Volume { tag, path: path.into() }).unwrap();
            }

            prop_assert_eq!(volumes.to_string().parse::<Volumes>(), Ok(volumes));
        }

        #[test]
        fn sockets_that_are_printed_are_read_again(
            fields in vec(("[^: ]{1,9}", "[^: ]{1,9}", "/[^: ]{0,40}", "[^: ]{1,9}"), 1..8),
        ) {
            let mut sockets = Sockets::default();
            for (device, id, path, name) in fields {
                let path = path.into();
                sockets.push(Socket { device, id, path, name }).unwrap();
            }

            prop_assert_eq!(sockets.to_string().parse::<Sockets>(), Ok(sockets));
        }

        #[test]
        fn whatever_is_read_is_printed_as_it_was(text in "[a-c:/ ]{0,24}") {
            if let Ok(volumes) = text.parse::<Volumes>() {
                prop_assert_eq!(volumes.to_string(), text.clone());
            }
            if let Ok(sockets) = text.parse::<Sockets>() {
                prop_assert_eq!(sockets.to_string(), text);
            }
        }
    }
}
