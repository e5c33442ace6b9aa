//! Names of containers and processes, checked once where they come in.

use crate::error::Error;
use std::fmt;

/// As long as the daemon allows them.
const ID_MAX: usize = 1024;

/// A name from the host: letters, digits, `_`, `.`, `+`, `-`; not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// # Errors
    /// A name that no container or process may have.
    pub fn parse(object: &'static str, id: String) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
        let good = !id.is_empty()
            && id.len() <= ID_MAX
            && id.bytes().all(allowed)
            && id != "."
            && id != "..";
        if good {
            Ok(Self(id))
        } else {
            Err(Error::Id {
                object,
                shown: id.chars().take(32).collect(),
                length: id.len(),
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Which process of which container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub container: Id,
    pub process: Which,
}

/// Ordered so that the init comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    Init,
    Exec(Id),
}

impl Name {
    pub fn init(container: Id) -> Self {
        Self {
            container,
            process: Which::Init,
        }
    }

    /// An empty exec id stands for the init.
    ///
    /// # Errors
    /// A name that no container or process may have.
    pub fn parse(container: String, exec: String) -> Result<Self, Error> {
        let container = Id::parse("container", container)?;
        let process = if exec.is_empty() {
            Which::Init
        } else {
            Which::Exec(Id::parse("exec", exec)?)
        };
        Ok(Self { container, process })
    }

    /// As it is on the wire: empty for the init.
    pub fn exec_id(&self) -> &str {
        match &self.process {
            Which::Init => "",
            Which::Exec(id) => id.as_str(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Which::Init => write!(f, "container {}", self.container),
            Which::Exec(id) => write!(f, "exec {id} of container {}", self.container),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_become_other_paths_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a\0",
            "é",
            &"x".repeat(ID_MAX + 1),
        ] {
            let refused = Id::parse("container", bad.to_owned()).unwrap_err();

            assert!(refused.to_string().len() < 120, "{refused}");
        }
        for good in ["web", "a.b_c+d-9", &"x".repeat(ID_MAX)] {
            assert!(Id::parse("container", good.to_owned()).is_ok());
        }
    }

    #[test]
    fn an_empty_exec_id_is_the_init() {
        let init = Name::parse("web".to_owned(), String::new()).unwrap();
        let exec = Name::parse("web".to_owned(), "e1".to_owned()).unwrap();

        assert_eq!((init.process.clone(), init.exec_id()), (Which::Init, ""));
        assert_eq!(exec.to_string(), r#"exec "e1" of container "web""#);
        assert!(init < exec);
    }
}
