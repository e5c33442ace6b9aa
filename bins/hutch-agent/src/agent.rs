//! What the calls share.

use tokio::sync::Notify;

#[derive(Default)]
pub struct Agent {
    ended: Notify,
}

impl Agent {
    /// The host wants the sandbox gone.
    pub fn end(&self) {
        self.ended.notify_one();
    }

    /// Returns when the host wants the sandbox gone.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }
}
