//! The corpora of what a guest may send, as plain tests.

#[path = "../../../fuzz/corpora.rs"]
mod corpora;
#[path = "../../../fuzz/properties/answers.rs"]
mod properties;

#[test]
fn every_answer_of_the_corpus_is_taken_or_refused_within_its_bounds() {
    corpora::each("answer", properties::answer);
}

#[test]
fn every_stream_of_the_corpus_is_read_or_refused_within_its_bounds() {
    corpora::each("stream", properties::stream);
}
