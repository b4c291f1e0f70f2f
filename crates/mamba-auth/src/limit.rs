//! Limits per user and per virtual host (`spec: semantics §22`).

/// At most so many; none set means as many as one likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit(Option<i64>);

impl Limit {
    /// As many as one likes.
    pub const NONE: Self = Self(None);

    /// A limit; a negative number means as many as one likes, and is shown as it was given.
    #[must_use]
    pub const fn new(max: i64) -> Self {
        Self(Some(max))
    }

    /// What was set.
    #[must_use]
    pub const fn get(self) -> Option<i64> {
        self.0
    }

    /// The number at which one more is refused, beside `count` that are there.
    #[must_use]
    pub fn reached_by(self, count: usize) -> Option<u64> {
        let max = u64::try_from(self.0?).ok()?;
        (count as u64 >= max).then_some(max)
    }
}

/// What a user may have at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// `max-connections`: open connections.
    pub connections_max: Limit,
    /// `max-channels`: open channels over all its connections.
    pub channels_max: Limit,
}

/// What a virtual host may have at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VhostLimits {
    /// `max-connections`: open connections.
    pub connections_max: Limit,
    /// `max-queues`: queues of any kind.
    pub queues_max: Limit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_includes_the_new_one() {
        assert_eq!(Limit::NONE.reached_by(usize::MAX), None);
        assert_eq!(Limit::new(-1).reached_by(usize::MAX), None);
        assert_eq!(Limit::new(0).reached_by(0), Some(0));
        assert_eq!(Limit::new(2).reached_by(1), None);
        assert_eq!(Limit::new(2).reached_by(2), Some(2));
        assert_eq!(Limit::new(2).reached_by(3), Some(2));
    }
}
