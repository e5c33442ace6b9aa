//! What an agent's status codes mean to callers. Text is carried for people, never judged.

use crate::convert::printable;
use runtime_core::error::Kind;
use ttrpc::{Code, Status};

/// One line on a terminal, and more than our agent says.
const MESSAGE_BYTES_MAX: usize = 512;

/// Kind of a status that is not OK.
pub(super) fn kind(status: &Status) -> Kind {
    let Ok(code) = status.code.enum_value() else {
        return Kind::Internal;
    };
    match code {
        Code::CANCELLED | Code::ABORTED => Kind::Aborted,
        Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => Kind::Invalid,
        Code::DEADLINE_EXCEEDED => Kind::Timeout,
        Code::NOT_FOUND => Kind::NotFound,
        Code::ALREADY_EXISTS => Kind::AlreadyExists,
        Code::PERMISSION_DENIED | Code::UNAUTHENTICATED | Code::FAILED_PRECONDITION => Kind::Denied,
        Code::RESOURCE_EXHAUSTED => Kind::Exhausted,
        Code::UNIMPLEMENTED => Kind::Unsupported,
        Code::UNAVAILABLE => Kind::Unavailable,
        // An error that says OK is one of theirs.
        Code::OK | Code::UNKNOWN | Code::INTERNAL | Code::DATA_LOSS => Kind::Internal,
    }
}

/// The agent's words: bounded, one line, nothing that moves a cursor.
pub(super) fn message(status: &Status) -> String {
    match status.message.is_empty() {
        true => "nothing".to_owned(),
        false => printable(&status.message, MESSAGE_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: i32, message: &str) -> Status {
        let mut status = Status::new();
        status.code = protobuf::EnumOrUnknown::from_i32(code);
        status.message = message.to_owned();
        status
    }

    #[test]
    fn a_code_that_nobody_knows_is_an_internal_error() {
        assert_eq!(kind(&status(99, "")), Kind::Internal);
        assert_eq!(kind(&status(-1, "")), Kind::Internal);
    }

    #[test]
    fn codes_that_callers_decide_on_keep_their_meaning() {
        for (code, expected) in [
            (Code::NOT_FOUND, Kind::NotFound),
            (Code::ALREADY_EXISTS, Kind::AlreadyExists),
            (Code::UNIMPLEMENTED, Kind::Unsupported),
            (Code::UNAVAILABLE, Kind::Unavailable),
            (Code::RESOURCE_EXHAUSTED, Kind::Exhausted),
            (Code::FAILED_PRECONDITION, Kind::Denied),
        ] {
            assert_eq!(kind(&status(code as i32, "")), expected, "{code:?}");
        }
    }

    #[test]
    fn the_words_of_a_guest_cannot_move_a_cursor_or_fill_a_screen() {
        let words = message(&status(13, &format!("\x1b[2J\r\nx{}", "ä".repeat(5000))));

        assert!(words.len() <= MESSAGE_BYTES_MAX + 3, "{}", words.len());
        assert!(!words.contains(char::is_control));
    }
}
