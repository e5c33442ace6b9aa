//! What must hold of the daemon for whatever text is taken for a config.json, for a process.json of an exec, or for the
//! limits of an update.

use hutchd::{
    bundle::{self, Request, wish},
    pods,
};
use runtime_core::{
    error::Fault,
    ids::{ContainerId, EpochMs, Namespace, SandboxUid},
};
use std::fmt::Debug;

pub fn config(text: &[u8]) {
    let joined = pods::joined(text);
    let judge = || {
        wish(Request {
            namespace: Namespace::new("default").expect("a namespace"),
            id: ContainerId::new("web").expect("an id"),
            bundle: "/nonexistent/bundle",
            config_json: text,
            join: joined.clone(),
            neighbours: None,
            cgroups_path: String::new(),
            relay: None,
            uid: SandboxUid::from_random(1),
            created: EpochMs(0),
        })
    };
    same(judge);
}

pub fn process(text: &[u8]) {
    same(|| bundle::check_process_json(text));
}

pub fn limits(text: &[u8]) {
    same(|| bundle::check_resources_json(text));
}

fn same<T: Debug>(judge: impl Fn() -> Result<T, Fault>) {
    match (judge(), judge()) {
        (Ok(first), Ok(again)) => assert_eq!(
            format!("{first:?}"),
            format!("{again:?}"),
            "the same text gives the same answer"
        ),
        (Err(first), Err(again)) => {
            let said = first.to_string();
            assert_eq!(
                said,
                again.to_string(),
                "the same text is refused for the same reason"
            );
            assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
        }
        (first, again) => panic!("once {first:?}, and again {again:?}"),
    }
}
