//! The arguments of `hutch sandbox`.

use super::{Format, given};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum SandboxVerb {
    /// Create a sandbox: a virtual machine that holds nothing yet. Prints its id.
    Create(SandboxCreate),
    /// Start what was created in a sandbox; give a stopped one a fresh virtual machine.
    Start(SandboxId),
    /// Create a sandbox and start it. Prints its id.
    Run(SandboxCreate),
    /// Stop a sandbox, and all that runs in it.
    Stop(SandboxStop),
    /// Delete a sandbox that is ready or stopped, and all that is in it.
    Delete(SandboxDelete),
    /// Stop the processors of a sandbox's virtual machine.
    Pause(SandboxId),
    /// Let the processors of a paused sandbox go on.
    Resume(SandboxId),
    /// List sandboxes.
    List(SandboxList),
    /// Print the state of a sandbox in one word.
    Status(SandboxId),
    /// Print all that is known of a sandbox as JSON.
    Inspect(SandboxId),
    /// Read or change the annotations of a sandbox.
    #[command(subcommand)]
    Annotation(AnnotationVerb),
    /// Print what a sandbox costs this host.
    Stats(SandboxStats),
    /// Print each change of a sandbox's state and each exit in it, until it is gone.
    Monitor(SandboxMonitor),
}

// Names a sandbox. No doc comment: it would be taken for what the verbs do.
#[derive(Debug, Args)]
pub struct SandboxId {
    /// A sandbox's id or uid, the id of a container in it, or a unique prefix of an id or uid.
    pub id: String,
}

#[derive(Debug, Args)]
pub struct SandboxCreate {
    /// Annotation; may be given more than once.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    pub annotations: Vec<(String, String)>,
    /// Name of the guest; made from the id unless it is given.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub hostname: String,
    /// What boots in it: hutch or kata; what the configuration says unless it is given.
    #[arg(long, value_name = "NAME")]
    pub guest_profile: Option<String>,
    /// Its processors; what the configuration says unless it is given.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub vcpus: Option<u32>,
    /// Its memory in MiB; what the configuration says unless it is given.
    #[arg(long, value_name = "MIB", allow_negative_numbers = true)]
    pub memory: Option<u64>,
    /// Id of the sandbox; its uid unless it is given.
    #[arg(value_parser = given)]
    pub id: Option<String>,
}

#[derive(Debug, Args)]
pub struct SandboxStop {
    /// End the virtual machine at once; needs nothing of the guest.
    #[arg(short, long)]
    pub force: bool,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct SandboxDelete {
    /// Whatever its state; takes a whole id or uid, and one that does not exist is no error.
    #[arg(short, long)]
    pub force: bool,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct SandboxList {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Ids only.
    #[arg(short, long)]
    pub quiet: bool,
    /// Sandboxes of every namespace.
    #[arg(long)]
    pub all_namespaces: bool,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum AnnotationVerb {
    /// Print one annotation, or all as JSON.
    Get(AnnotationGet),
    /// Add annotations; one that is there gets the new value.
    Set(AnnotationSet),
}

#[derive(Debug, Args)]
pub struct AnnotationGet {
    pub id: String,
    pub key: Option<String>,
}

#[derive(Debug, Args)]
pub struct AnnotationSet {
    pub id: String,
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = pair)]
    pub annotations: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct SandboxStats {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct SandboxMonitor {
    /// Only what happens from now on.
    #[arg(long)]
    pub new: bool,
    pub id: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the key is empty".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("KEY=VALUE is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::pair;

    #[test]
    fn an_annotation_is_split_at_its_first_equals_sign() {
        let split = |text| pair(text).map_err(drop);

        assert_eq!(split("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(split("a="), Ok(("a".to_owned(), String::new())));
        assert_eq!(split("a"), Err(()));
        assert_eq!(split("=b"), Err(()));
    }
}
