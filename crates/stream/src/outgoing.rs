//! Bytes on their way to the connection. Whoever writes them takes as many as it can.

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Outgoing {
    pub bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        assert!(
            self.sent <= self.bytes.len(),
            "only what was pending is sent"
        );
        if self.sent == self.bytes.len() {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Gives memory back that an idle stream does not need.
    pub fn trim(&mut self) {
        self.bytes.shrink_to_fit();
    }
}
