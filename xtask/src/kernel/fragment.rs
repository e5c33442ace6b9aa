//! A kernel configuration fragment: what it asks for, and what of it a configuration does not grant.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Options by name; `None` means "is not set".
#[derive(Debug)]
pub struct Fragment {
    wanted: BTreeMap<String, Option<String>>,
}

impl Fragment {
    /// Reads a fragment. An option that stands twice is an error: one of the two would silently lose.
    pub fn parse(text: &str) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some((name, value)) = option(line) else {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                bail!(
                    "line {}: neither an option nor a comment: {line}",
                    number + 1
                );
            };
            if wanted.insert(name.to_owned(), value).is_some() {
                bail!("line {}: {name} stands twice", number + 1);
            }
        }
        Ok(Self { wanted })
    }

    /// The same text for fragments that ask for the same.
    pub fn canonical(&self) -> String {
        self.wanted
            .iter()
            .map(|(name, value)| format!("{name}={}\n", value.as_deref().unwrap_or("n")))
            .collect()
    }

    /// The options that `config` does not have as asked, as `NAME is VALUE, not VALUE`.
    pub fn lost(&self, config: &str) -> Vec<String> {
        let granted: BTreeMap<&str, Option<String>> = config.lines().filter_map(option).collect();
        self.wanted
            .iter()
            .filter_map(|(name, wanted)| {
                let granted = granted.get(name.as_str()).cloned().flatten();
                let shown = |value: &Option<String>| value.clone().unwrap_or("unset".to_owned());
                (granted != *wanted)
                    .then(|| format!("{name} is {}, not {}", shown(&granted), shown(wanted)))
            })
            .collect()
    }
}

/// `CONFIG_X=v` or `# CONFIG_X is not set`.
fn option(line: &str) -> Option<(&str, Option<String>)> {
    if let Some(rest) = line.strip_prefix("# ") {
        let name = rest.strip_suffix(" is not set")?;
        return is_name(name).then_some((name, None));
    }
    let (name, value) = line.split_once('=')?;
    is_name(name).then(|| (name, Some(value.to_owned()).filter(|value| value != "n")))
}

fn is_name(text: &str) -> bool {
    text.strip_prefix("CONFIG_").is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_the_kernel_dropped_is_named_with_both_values() {
        let fragment =
            Fragment::parse("CONFIG_A=y\nCONFIG_B=16\n# CONFIG_C is not set\nCONFIG_D=y\n")
                .unwrap();

        let lost = fragment.lost("CONFIG_B=8\nCONFIG_C=y\nCONFIG_D=y\n# CONFIG_A is not set\n");

        assert_eq!(
            lost,
            [
                "CONFIG_A is unset, not y",
                "CONFIG_B is 8, not 16",
                "CONFIG_C is y, not unset"
            ]
        );
    }

    #[test]
    fn an_option_that_is_off_may_be_absent_from_the_result() {
        let fragment = Fragment::parse("# CONFIG_A is not set\nCONFIG_B=n\n").unwrap();

        assert!(fragment.lost("").is_empty());
    }

    #[test]
    fn order_and_comments_do_not_make_another_fragment() {
        let one = Fragment::parse("# why\nCONFIG_A=y\n# CONFIG_B is not set\n").unwrap();
        let other = Fragment::parse("CONFIG_B=n\nCONFIG_A=y\n").unwrap();

        assert_eq!(one.canonical(), "CONFIG_A=y\nCONFIG_B=n\n");
        assert_eq!(one.canonical(), other.canonical());
    }

    #[test]
    fn an_option_that_stands_twice_is_refused() {
        let error = Fragment::parse("CONFIG_A=y\nCONFIG_A=y\n").unwrap_err();

        assert_eq!(error.to_string(), "line 2: CONFIG_A stands twice");
    }

    #[test]
    fn a_line_that_is_no_option_is_refused_and_prose_is_not() {
        assert!(
            Fragment::parse("# a comment = with a sign\n\n# this is not set in stone\n").is_ok()
        );
        assert_eq!(
            Fragment::parse("CONFIG A=y\n").unwrap_err().to_string(),
            "line 1: neither an option nor a comment: CONFIG A=y"
        );
    }
}
