//! How kinds of errors become ttrpc codes; the only place that knows.

use runtime_core::error::{Fault, Kind};
use ttrpc::{Code, Error, get_status};

pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::Invalid => Code::INVALID_ARGUMENT,
        Kind::Denied => Code::FAILED_PRECONDITION,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Timeout => Code::DEADLINE_EXCEEDED,
        Kind::Exhausted => Code::RESOURCE_EXHAUSTED,
        Kind::Aborted => Code::ABORTED,
        Kind::Unsupported => Code::UNIMPLEMENTED,
        Kind::Internal => Code::INTERNAL,
    }
}

pub fn status(fault: Fault) -> Error {
    Error::RpcStatus(get_status(code(fault.kind()), fault.to_string()))
}
