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
    match without_number(&status.message) {
        "" => "nothing".to_owned(),
        words => printable(words, MESSAGE_BYTES_MAX),
    }
}

/// Our agent says first what it was doing on which container, by the number that it knows it by, and on which exec,
/// by a uuid. A person knows neither, and the call and the container's id are said in front of it anyway.
fn without_number(words: &str) -> &str {
    let Some((doing, why)) = words.split_once(": ") else {
        return words;
    };
    let named = doing
        .strip_suffix('"')
        .and_then(|doing| doing.rsplit_once('"'));
    match named {
        Some((before, number))
            if before.ends_with("container ")
                && !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            why
        }
        Some(_) | None => words,
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
    fn numbers_that_nobody_knows_are_not_told() {
        let said = |words: &str| message(&status(13, words));

        for before in [
            r#"start exec "1db062ee-64a3" of container "0""#,
            r#"update container "12""#,
        ] {
            let words = format!(r#"{before}: exec: "/nope": stat /nope: not there"#);
            assert_eq!(said(&words), r#"exec: "/nope": stat /nope: not there"#);
        }
        for other in [
            r#"container "web": gone"#,
            r#"container "": gone"#,
            r#"container "0""#,
            "list processes: no",
        ] {
            assert_eq!(said(other), other);
        }
    }

    #[test]
    fn the_words_of_a_guest_cannot_move_a_cursor_or_fill_a_screen() {
        let words = message(&status(13, &format!("\x1b[2J\r\nx{}", "ä".repeat(5000))));

        assert!(words.len() <= MESSAGE_BYTES_MAX + 3, "{}", words.len());
        assert!(!words.contains(char::is_control));
    }
}
