//! Which answer each kind of error gets. The one place where that is said.

use crate::error::{Error, Kind};
use ttrpc::Code;

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::Invalid => Code::INVALID_ARGUMENT,
            Kind::Denied => Code::FAILED_PRECONDITION,
            Kind::Timeout => Code::DEADLINE_EXCEEDED,
            Kind::Exhausted => Code::RESOURCE_EXHAUSTED,
            Kind::Over => Code::OUT_OF_RANGE,
            Kind::Unsupported => Code::UNIMPLEMENTED,
            Kind::Internal => Code::INTERNAL,
        };
        Self::RpcStatus(ttrpc::get_status(code, error.chain().to_string()))
    }
}
