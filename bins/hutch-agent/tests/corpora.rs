//! The corpora of config.json and process.json, as plain tests.

#[path = "../../../fuzz/corpora.rs"]
mod corpora;
#[path = "../../../fuzz/properties/specs.rs"]
mod properties;

#[test]
fn every_config_of_the_corpus_is_judged_and_none_breaks_the_engine() {
    corpora::each("config", properties::config);
}

#[test]
fn every_process_of_the_corpus_is_judged_and_none_breaks_the_engine() {
    corpora::each("process", properties::process);
}

/// What is refused at its beginning tries nothing of the rest.
#[test]
fn the_fullest_process_is_planned_to_its_end_and_one_whose_id_is_too_large_is_refused() {
    let rehearse = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/process/");
        let text = std::fs::read(format!("{folder}{name}")).expect("the seed is there");
        hutch_agent::engine::rehearsal::process(&text).map_err(|error| error.to_string())
    };

    let planned = rehearse("full");
    let refused = rehearse("id_too_large");

    assert!(
        planned.is_ok_and(|planned| planned.warnings.len() == 2),
        "of the two labels alone is warned"
    );
    assert!(refused.is_err_and(|said| said.contains("4294967295")));
}
