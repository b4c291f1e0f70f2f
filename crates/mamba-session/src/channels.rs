//! The channels of one connection.

use mamba_types::ChannelId;

use crate::content::Assembled;

/// Where a channel stands.
///
/// ```text
/// Open <-> Publishing                          a content is arriving
/// Open -> ClientClosing -> gone                the client closes
/// Open | Publishing -> Closing -> gone         the server closes
/// ```
#[derive(Debug)]
pub(crate) enum Stand {
    /// Expects a method.
    Open,
    /// Expects the rest of a content (4.2.6).
    Publishing(Box<Pending>),
    /// `close` sent; everything but `close` and `close-ok` is thrown away.
    Closing,
    /// The client closes; the driver cleans up.
    ClientClosing,
}

/// A `basic.publish` whose content is arriving.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) exchange: Vec<u8>,
    pub(crate) routing_key: Vec<u8>,
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
    pub(crate) stage: Stage,
}

#[derive(Debug)]
pub(crate) enum Stage {
    AwaitingHeader,
    AwaitingBody {
        record: Assembled,
        remaining: u64,
    },
    /// Too large: the body is counted and thrown away.
    Counting {
        size: u64,
        remaining: u64,
    },
}

impl Stand {
    /// Octets of memory an unfinished content holds.
    fn held(&self) -> u64 {
        match self {
            Self::Publishing(pending) => {
                let record = match &pending.stage {
                    Stage::AwaitingBody { record, .. } => record.capacity(),
                    Stage::AwaitingHeader | Stage::Counting { .. } => 0,
                };
                (size_of::<Pending>()
                    + pending.exchange.capacity()
                    + pending.routing_key.capacity()
                    + record) as u64
            }
            Self::Open | Self::Closing | Self::ClientClosing => 0,
        }
    }
}

/// Channels by number. A position is good until the next `open` or `remove`.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    list: Vec<(ChannelId, Stand)>,
    /// Where the channel looked up last is: most frames go on with the same channel.
    last: usize,
    unfinished: u64,
}

impl Channels {
    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) const fn unfinished(&self) -> u64 {
        self.unfinished
    }

    #[inline]
    pub(crate) fn find(&mut self, channel: ChannelId) -> Option<usize> {
        if self
            .list
            .get(self.last)
            .is_some_and(|(number, _)| *number == channel)
        {
            return Some(self.last);
        }
        let at = self
            .list
            .binary_search_by_key(&channel, |(number, _)| *number)
            .ok()?;
        self.last = at;
        Some(at)
    }

    #[inline]
    pub(crate) fn stand(&self, at: usize) -> &Stand {
        &self.list[at].1
    }

    /// Puts the channel into another state and returns the state it was in.
    pub(crate) fn place(&mut self, at: usize, stand: Stand) -> Stand {
        self.unfinished += stand.held();
        let before = std::mem::replace(&mut self.list[at].1, stand);
        self.unfinished -= before.held();
        before
    }

    pub(crate) fn open(&mut self, channel: ChannelId) {
        if let Err(at) = self
            .list
            .binary_search_by_key(&channel, |(number, _)| *number)
        {
            self.list.insert(at, (channel, Stand::Open));
        }
    }

    pub(crate) fn remove(&mut self, at: usize) {
        let (_, stand) = self.list.remove(at);
        self.unfinished -= stand.held();
        if self.list.is_empty() {
            self.list = Vec::new();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
