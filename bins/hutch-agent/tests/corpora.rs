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
