//! The control port of a guest whose host reaches it over virtio-serial.

use super::{Connections, pump::Pump};
use crate::{
    error::Error,
    ports::{self, Attempt, Port, Reactor},
};
use std::{io, sync::Arc};
use tokio::{select, task::JoinHandle};

const CONTROL: &str = "hutch.control";

/// Opens the control port; its connections arrive at `made` until the port is unplugged or the
/// server has gone and had its last word.
pub async fn open(
    reactor: &Arc<Reactor>,
    made: Connections,
) -> Result<JoinHandle<io::Result<()>>, Error> {
    let port = ports::open(CONTROL, reactor).await?;
    Ok(tokio::spawn(async move {
        let mut pump = Pump::new(made);
        serve(&port, &mut pump).await
    }))
}

async fn serve(port: &Port, pump: &mut Pump) -> io::Result<()> {
    let mut buffer = vec![0; super::pump::BUFFER];
    while !pump.over() {
        // Only an attempt that found nothing leaves a wake-up to wait for.
        while pump.hungry() {
            match port.try_read(&mut buffer)? {
                Attempt::Moved(count) => pump.received(&buffer[..count]).await,
                Attempt::Blocked | Attempt::Away => break,
            }
        }
        let mut room = true;
        while room && !pump.outgoing().is_empty() {
            match port.try_write(pump.outgoing())? {
                Attempt::Moved(count) => pump.sent(count),
                Attempt::Blocked | Attempt::Away => room = false,
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
    Ok(())
}
