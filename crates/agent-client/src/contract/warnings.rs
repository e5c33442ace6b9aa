//! What an agent that warns promises: what its guest lacks is told with the answer.

use super::agent::{Bench, LIMIT, STAYS, linked};
use runtime_core::{
    agent::{UpdateContainer, Warnings},
    ids::ContainerNumber,
};
use serde_json::{Value, json};

/// A JSON object with one more field.
fn with(json: &[u8], pointer: &str, value: Value) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(json).expect("what a bench makes is JSON");
    let (parent, name) = pointer.rsplit_once('/').expect("a field has a parent");
    let parent = json.pointer_mut(parent).expect("the parent is there");
    parent[name] = value;
    json.to_string().into_bytes()
}

pub async fn what_the_guest_lacks_is_told_with_the_answer(bench: &impl Bench) {
    let linked = linked(bench).await;
    let container = ContainerNumber(117);
    let mut create = bench.container(container, &STAYS);
    create.config_json = with(
        &create.config_json,
        "/linux/intelRdt",
        json!({"closID": "x"}),
    );
    let mut exec = linked.ask_exec(container, "warned", &STAYS);
    exec.program.process_json = with(
        &exec.program.process_json,
        "/apparmorProfile",
        json!("strict"),
    );
    let network = UpdateContainer {
        container,
        resources_json: br#"{"network": {"classID": 7}}"#.to_vec(),
    };
    let nothing = UpdateContainer {
        container,
        resources_json: b"{}".to_vec(),
    };

    let created = linked.port.create_container(create, LIMIT).await;
    linked.start(container).await;
    let made = linked.port.exec(exec, LIMIT).await;
    let updated = linked.port.update_container(network, LIMIT).await;
    let silent = linked.port.update_container(nothing, LIMIT).await;

    for (told, field) in [
        (created, "intelRdt"),
        (made, "apparmorProfile"),
        (updated, "network"),
    ] {
        let told = told.expect("it is carried out all the same");
        assert!(
            matches!(told.as_slice(), [one] if one.contains(field)),
            "{told:?}"
        );
    }
    assert_eq!(silent, Ok(Warnings::new()));
    linked.end(container).await;
}
