//! What the host tells the agent on the kernel's command line: words `hutch.KEY=VALUE`.
//!
//! Pure. A word that we do not know is an error: the host and the guest image disagree.

use crate::error::Error;

/// By which way the host reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// Virtio-serial ports: `hutch.control` and one port per process.
    Serial,
    /// AF_VSOCK: port 1024, and one port per process.
    Vsock,
}

/// Whether the shared folder is mounted at start, before anyone asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    AtStart,
    OnRequest,
}

/// Who may connect over AF_VSOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VsockPeer {
    Host,
    /// The guest itself, over the loopback device: only to try the way where no host offers it.
    Local,
}

/// What a host is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    All,
    /// The first interface alone: to its host this agent is a stock one.
    Stock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub channel: ChannelKind,
    pub vsock_peer: VsockPeer,
    pub share: Share,
    pub features: Features,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channel: ChannelKind::Serial,
            vsock_peer: VsockPeer::Host,
            share: Share::OnRequest,
            features: Features::All,
        }
    }
}

impl Options {
    /// Reads the kernel's command line.
    ///
    /// # Errors
    /// A word that begins with `hutch.` and is not known, or is there twice.
    pub fn parse(line: &str) -> Result<Self, Error> {
        let mut options = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for word in line.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix("hutch.") else {
                continue;
            };
            let refused = || Error::Option(word.to_owned());
            let (key, value) = word.split_once('=').ok_or_else(refused)?;
            if seen.contains(&key) {
                return Err(refused());
            }
            seen.push(key);
            match (key, value) {
                ("channel", "serial") => options.channel = ChannelKind::Serial,
                ("channel", "vsock") => options.channel = ChannelKind::Vsock,
                ("vsock_peer", "host") => options.vsock_peer = VsockPeer::Host,
                ("vsock_peer", "local") => options.vsock_peer = VsockPeer::Local,
                ("share", "0") => options.share = Share::OnRequest,
                ("share", "1") => options.share = Share::AtStart,
                ("features", "all") => options.features = Features::All,
                ("features", "stock") => options.features = Features::Stock,
                (_, _) => return Err(refused()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_left_alone() {
        let options = Options::parse("console=ttyS0 quiet panic=-1 hutchery=3\n").unwrap();

        assert_eq!(options, Options::default());
    }

    #[test]
    fn channel_and_share_are_read() {
        let options = Options::parse("quiet hutch.channel=vsock hutch.share=1").unwrap();

        assert_eq!(
            options,
            Options {
                channel: ChannelKind::Vsock,
                vsock_peer: VsockPeer::Host,
                share: Share::AtStart,
                features: Features::All,
            }
        );
    }

    #[test]
    fn an_agent_may_be_told_to_offer_what_a_stock_one_does() {
        let options = Options::parse("hutch.features=stock").unwrap();

        assert_eq!(options.features, Features::Stock);
        assert!(Options::parse("hutch.features=none").is_err());
    }

    #[test]
    fn an_unknown_malformed_or_repeated_word_is_refused_by_name() {
        for word in [
            "hutch.chanel=serial",
            "hutch.channel",
            "hutch.channel=",
            "hutch.channel=Serial",
            "hutch.share=yes",
            "hutch.=1",
            "hutch.share=1 hutch.share=1",
        ] {
            let refused = Options::parse(word).unwrap_err();

            assert!(refused.to_string().contains("hutch."), "{refused}");
        }
    }
}
