//! What a guest end that succeeds another, which is gone with all that it knew, has to learn from
//! its host: where each channel stands.

/// Whether the place of the next byte, or signal, is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Known,
    /// The host's next one says it.
    Unknown,
}

/// Each is learned when its first word comes: of the outputs, HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub outputs: Place,
    pub stdin: Place,
    pub signals: Place,
}

impl Places {
    /// Nobody was before it.
    pub const FIRST: Self = Self {
        outputs: Place::Known,
        stdin: Place::Known,
        signals: Place::Known,
    };
    pub const HEIR: Self = Self {
        outputs: Place::Unknown,
        stdin: Place::Unknown,
        signals: Place::Unknown,
    };
}
