//! pause, resume: a container's processes stand still, and go on.

use super::{Place, fresh_key};
use crate::daemon::soon;
use anyhow::Result;
use protocols::asynchronous::hutch::{PauseRequest, ResumeRequest};

pub fn pause(at: &Place, id: &str) -> Result<u8> {
    let request = PauseRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        ..Default::default()
    };
    at.daemon()?
        .ask(async |client| client.pause(soon(), &request).await)?;
    Ok(0)
}

pub fn resume(at: &Place, id: &str) -> Result<u8> {
    let request = ResumeRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        ..Default::default()
    };
    at.daemon()?
        .ask(async |client| client.resume(soon(), &request).await)?;
    Ok(0)
}
