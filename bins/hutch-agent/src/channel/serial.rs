//! The control port of a guest whose host reaches it over virtio-serial.

use super::{Connections, pump::Pump};
use crate::{
    error::Error,
    ports::{self, Port, Reactor},
};
use std::{io, sync::Arc};
use tokio::select;

const CONTROL: &str = "hutch.control";

/// Opens the control port; its connections arrive at `made` until the port is unplugged, which
/// ends the agent.
pub async fn open(reactor: &Arc<Reactor>, made: Connections) -> Result<(), Error> {
    let port = ports::open(CONTROL, reactor).await?;
    tokio::spawn(async move {
        let mut pump = Pump::new(made);
        let ended = serve(&port, &mut pump).await;
        crate::error!("port {CONTROL:?}: {}", ended.expect_err("ends only by an error"));
    });
    Ok(())
}

async fn serve(port: &Port, pump: &mut Pump) -> io::Result<std::convert::Infallible> {
    let mut buffer = vec![0; super::pump::BUFFER];
    loop {
        // Only an attempt that found nothing leaves a wake-up to wait for.
        while pump.hungry() {
            match port.try_read(&mut buffer)? {
                Some(count) => pump.received(&buffer[..count]).await,
                None => break,
            }
        }
        let mut room = true;
        while room && !pump.outgoing().is_empty() {
            match port.try_write(pump.outgoing())? {
                Some(count) => pump.sent(count),
                None => room = false,
            }
        }
        let (hungry, idle) = (pump.hungry(), pump.outgoing().is_empty());
        select! {
            biased;
            () = port.readable(), if hungry => {}
            () = port.writable(), if !idle => {}
            () = pump.turn() => {}
        }
    }
}
