//! Permissions: regular expressions over the names of queues, exchanges and topics (`spec: semantics §21`).

use std::{borrow::Cow, fmt};

use fancy_regex::{Regex, RegexBuilder};

/// Octets of a pattern.
const PATTERN_LEN_MAX: usize = 8192;
/// Steps back a pattern may take on one name before it counts as not matching.
const BACKTRACK_MAX: usize = 100_000;

/// Which of the three rights an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Create, change, delete.
    Configure,
    /// Put messages in.
    Write,
    /// Take messages out.
    Read,
}

impl Right {
    /// As refusals name it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A right to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRight {
    /// Publish with this routing key.
    Write,
    /// Bind with this binding key.
    Read,
}

impl TopicRight {
    /// As refusals name it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A resource a right is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A queue's name.
    Queue(&'a str),
    /// An exchange's name; the empty one is called `amq.default`.
    Exchange(&'a str),
}

impl<'a> Resource<'a> {
    /// `queue` or `exchange`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Queue(_) => "queue",
            Self::Exchange(_) => "exchange",
        }
    }

    /// The name that is matched and printed.
    #[must_use]
    pub fn name(self) -> &'a str {
        match self {
            Self::Queue(name) => name,
            Self::Exchange("") => "amq.default",
            Self::Exchange(name) => name,
        }
    }
}

/// No regular expression.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{pattern}' is not a regular expression: {reason}")]
pub struct InvalidPattern {
    /// What came.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

enum Matcher {
    Everything,
    OnlyEmpty,
    Regex(Box<Regex>),
}

/// A regular expression that is searched for anywhere in a name; the empty one matches the empty name only.
pub struct Pattern {
    text: Box<str>,
    matcher: Matcher,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Compiles a pattern. Look-around and back references are understood.
    ///
    /// # Errors
    /// [`InvalidPattern`] when it is no regular expression or too large.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        Self::expanded(text, text)
    }

    fn expanded(text: &str, expression: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason: String| InvalidPattern {
            pattern: text.chars().take(255).collect(),
            reason,
        };
        if expression.len() > PATTERN_LEN_MAX {
            return Err(invalid(format!(
                "it has {} octets, {PATTERN_LEN_MAX} are allowed",
                expression.len()
            )));
        }
        let matcher = match expression {
            "" | "^$" => Matcher::OnlyEmpty,
            ".*" | "^.*" | "^.*$" | ".*$" => Matcher::Everything,
            expression => {
                let regex = RegexBuilder::new(expression)
                    .backtrack_limit(BACKTRACK_MAX)
                    .build()
                    .map_err(|error| invalid(error.to_string()))?;
                Matcher::Regex(Box::new(regex))
            }
        };
        Ok(Self {
            text: text.into(),
            matcher,
        })
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the name matches. A pattern that takes too long does not.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.matcher {
            Matcher::Everything => true,
            Matcher::OnlyEmpty => name.is_empty(),
            Matcher::Regex(regex) => regex.is_match(name).unwrap_or(false),
        }
    }

    /// Whether matching takes so little that an answer need not be remembered.
    #[must_use]
    pub const fn is_trivial(&self) -> bool {
        !matches!(self.matcher, Matcher::Regex(_))
    }
}

/// A user's rights in one virtual host.
#[derive(Debug, PartialEq)]
pub struct Permissions {
    /// What it may create and delete.
    pub configure: Pattern,
    /// Where it may publish and bind to.
    pub write: Pattern,
    /// What it may consume and bind from.
    pub read: Pattern,
}

impl Permissions {
    /// Compiles the three patterns.
    ///
    /// # Errors
    /// The first that is no regular expression.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, InvalidPattern> {
        Ok(Self {
            configure: Pattern::new(configure)?,
            write: Pattern::new(write)?,
            read: Pattern::new(read)?,
        })
    }

    /// The pattern for a right.
    #[must_use]
    pub const fn pattern(&self, right: Right) -> &Pattern {
        match right {
            Right::Configure => &self.configure,
            Right::Write => &self.write,
            Right::Read => &self.read,
        }
    }
}

/// A user's rights to the topics of one exchange.
#[derive(Debug, PartialEq)]
pub struct TopicPermissions {
    /// Routing keys it may publish with.
    pub write: Pattern,
    /// Binding keys it may bind with.
    pub read: Pattern,
}

impl TopicPermissions {
    /// Compiles both patterns for a user in a virtual host: `{username}` and `{vhost}` in them stand for those names, taken
    /// literally.
    ///
    /// # Errors
    /// The first that is no regular expression.
    pub fn new(user: &str, vhost: &str, write: &str, read: &str) -> Result<Self, InvalidPattern> {
        let compile = |text: &str| Pattern::expanded(text, &substituted(text, user, vhost));
        Ok(Self {
            write: compile(write)?,
            read: compile(read)?,
        })
    }

    /// The pattern for a right.
    #[must_use]
    pub const fn pattern(&self, right: TopicRight) -> &Pattern {
        match right {
            TopicRight::Write => &self.write,
            TopicRight::Read => &self.read,
        }
    }
}

/// One pass over the pattern, so that a name that looks like a variable is not taken for one.
fn substituted<'a>(text: &'a str, user: &str, vhost: &str) -> Cow<'a, str> {
    let variables = [("{username}", user), ("{vhost}", vhost)];
    if !variables.iter().any(|(name, _)| text.contains(name)) {
        return Cow::Borrowed(text);
    }
    let mut expression = String::with_capacity(text.len() + user.len() + vhost.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((name, value)) = variables.iter().find(|(name, _)| rest.starts_with(name)) {
            expression.push_str(&fancy_regex::escape(value));
            rest = &rest[name.len()..];
        } else {
            expression.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Cow::Owned(expression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        assert_eq!(
            Pattern::new(pattern).unwrap().matches(name),
            expected,
            "{pattern} on {name}"
        );
    }

    #[test]
    fn a_match_anywhere_is_enough() {
        check(".*", "", true);
        check(".*", "q", true);
        check("app", "my-app-queue", true);
        check("^app", "my-app-queue", false);
        check("^app$", "app", true);
        check("^(amq\\.gen.*|amq\\.default)$", "amq.default", true);
        check("^(?!secret)", "public", true);
        check("^(?!secret)", "secret.q", false);
        check("é", "café", true);
    }

    #[test]
    fn the_empty_pattern_matches_the_empty_name_only() {
        check("", "", true);
        check("", "q", false);
        check("^$", "q", false);
    }

    #[test]
    fn a_pattern_that_explodes_does_not_match() {
        check("^(?=(a+)+b)", &"a".repeat(64), false);
    }

    #[test]
    fn what_is_no_regular_expression_is_refused() {
        for text in ["(", "[a", "a)", "(?<"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        assert!(Pattern::new(&"a".repeat(PATTERN_LEN_MAX + 1)).is_err());
    }

    #[test]
    fn variables_are_taken_literally() {
        let topics = TopicPermissions::new("a.b", "{username}", "^{username}\\.", "^{vhost}$");
        let topics = topics.unwrap();
        assert!(topics.write.matches("a.b.c"));
        assert!(!topics.write.matches("axb.c"));
        assert!(topics.read.matches("{username}"));
        assert!(!topics.read.matches("a.b"));
        assert_eq!(topics.write.as_str(), "^{username}\\.");
    }
}
