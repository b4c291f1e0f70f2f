//! A user: name, password hash, tags and limits.

use std::sync::Arc;

use crate::{limit::UserLimits, password::PasswordHash};

/// Tags a user may have.
pub const TAGS_MAX: usize = 32;

/// More tags than a user may have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a user may have {TAGS_MAX} tags at most, got {0}")]
pub struct TooManyTags(pub usize);

/// What a user is called beside its name: some tags open the management (`spec: semantics §21`), other words are free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<String>);

impl Tags {
    /// These tags in this order, each once; blanks around them and empty ones are dropped.
    ///
    /// # Errors
    /// [`TooManyTags`] above [`TAGS_MAX`].
    pub fn new<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Result<Self, TooManyTags> {
        let mut list: Vec<String> = Vec::new();
        for tag in tags {
            let tag = tag.as_ref().trim();
            if !tag.is_empty() && !list.iter().any(|known| known == tag) {
                list.push(tag.to_owned());
            }
        }
        if list.len() > TAGS_MAX {
            return Err(TooManyTags(list.len()));
        }
        Ok(Self(list))
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the tag is there.
    #[must_use]
    pub fn contains(&self, tag: &str) -> bool {
        self.0.iter().any(|known| known == tag)
    }

    /// May set another user's name as a message's user-id.
    #[must_use]
    pub fn impersonator(&self) -> bool {
        self.contains("impersonator")
    }

    /// May do everything in the management.
    #[must_use]
    pub fn administrator(&self) -> bool {
        self.contains("administrator")
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: Arc<str>,
    /// What is kept of the password.
    pub password: PasswordHash,
    /// Tags.
    pub tags: Tags,
    /// Connections and channels it may have.
    pub limits: UserLimits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_trimmed_and_bounded() {
        let tags = Tags::new(["management", " impersonator ", "", "management"]).unwrap();
        assert_eq!(
            tags.iter().collect::<Vec<_>>(),
            ["management", "impersonator"]
        );
        assert!(tags.impersonator() && !tags.administrator());
        let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        assert!(Tags::new(&many[..32]).is_ok());
        assert_eq!(Tags::new(&many), Err(TooManyTags(33)));
    }
}
