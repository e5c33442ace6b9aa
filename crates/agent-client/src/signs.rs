//! Signs of life of a guest, read from the console log that its VMM writes.

use crate::port::Signs;
use runtime_core::kit::Work;
use std::path::PathBuf;

/// The console log of one VM. Only its length is read.
#[derive(Debug, Clone)]
pub struct ConsoleLog {
    pub path: PathBuf,
}

impl Signs for ConsoleLog {
    fn console_bytes(&self) -> Work<u64> {
        let path = self.path.clone();
        Box::pin(async move {
            // A log that is not there yet has said nothing.
            let meta = tokio::fs::metadata(path).await;
            meta.map_or(0, |meta| meta.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_console_that_is_not_there_has_said_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = ConsoleLog {
            path: folder.path().join("console.log"),
        };

        let before = log.console_bytes().await;
        std::fs::write(&log.path, "hello").unwrap();

        assert_eq!((before, log.console_bytes().await), (0, 5));
    }
}
