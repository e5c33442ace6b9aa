//! Stdio call by call.

use super::containers::name;
use crate::{
    agent::Agent,
    error::{Doing, Error},
    stdio::Output,
};
use protocols::asynchronous::{
    agent::{
        CloseStdinRequest, ReadStreamRequest, ReadStreamResponse, TtyWinResizeRequest,
        WriteStreamRequest, WriteStreamResponse,
    },
    empty::Empty,
};
use std::sync::Arc;
use stream::Winsize;
use tokio::select;

pub async fn write(
    agent: &Arc<Agent>,
    request: WriteStreamRequest,
) -> Result<WriteStreamResponse, Error> {
    let name = name(request.container_id, request.exec_id)?;
    let written = agent.pulled(&name)?.write(&request.data).await;
    let written = written.doing(|| format!("write stdin of {name}"))?;
    Ok(WriteStreamResponse {
        // No more than was sent, which a message holds.
        len: u32::try_from(written).unwrap_or(u32::MAX),
        ..WriteStreamResponse::default()
    })
}

pub async fn read_stdout(
    agent: &Arc<Agent>,
    request: ReadStreamRequest,
) -> Result<ReadStreamResponse, Error> {
    read(agent, request, Output::Stdout).await
}

pub async fn read_stderr(
    agent: &Arc<Agent>,
    request: ReadStreamRequest,
) -> Result<ReadStreamResponse, Error> {
    read(agent, request, Output::Stderr).await
}

async fn read(
    agent: &Arc<Agent>,
    request: ReadStreamRequest,
    output: Output,
) -> Result<ReadStreamResponse, Error> {
    let name = name(request.container_id, request.exec_id)?;
    let pulled = agent.pulled(&name)?;
    let bytes = select! {
        biased;
        bytes = pulled.read(output, request.len as usize) => bytes,
        () = agent.ended() => Ok(Vec::new()),
    };
    let bytes = bytes.doing(|| format!("read output of {name}"))?;
    if bytes.is_empty() && request.len > 0 {
        // A stock host takes any error for the end, and an empty answer for nothing yet.
        let what = format!("output of {name}");
        return Err(Error::Over { what });
    }
    Ok(ReadStreamResponse {
        data: bytes,
        ..ReadStreamResponse::default()
    })
}

pub async fn close_stdin(agent: &Arc<Agent>, request: CloseStdinRequest) -> Result<Empty, Error> {
    let name = name(request.container_id, request.exec_id)?;
    agent.pulled(&name)?.close_stdin().await;
    Ok(Empty::new())
}

pub async fn resize(agent: &Arc<Agent>, request: TtyWinResizeRequest) -> Result<Empty, Error> {
    let name = name(request.container_id, request.exec_id)?;
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    let size = Winsize {
        rows: cells(request.row),
        columns: cells(request.column),
    };
    let resized = agent.pulled(&name)?.resize(size);
    resized.doing(|| format!("resize the terminal of {name}"))?;
    Ok(Empty::new())
}
