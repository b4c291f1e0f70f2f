//! Reply codes, their names and scopes, and the one type for "a peer broke a rule".

/// A reply text's limit, in octets: it travels as a short string.
const REPLY_TEXT_MAX: usize = 255;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[expect(missing_docs, reason = "the names are the specification's own")]
        pub enum $name { $($variant = $code),* }

        impl $name {
            /// Every code of this scope.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code),* }
            }

            /// The name as it opens a reply text, e.g. `NOT_FOUND`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

codes! {
    /// Errors that close the channel; the connection goes on (AMQP 0-9-1, 4.8.1).
    SoftError {
        ContentTooLarge = 311 "CONTENT_TOO_LARGE",
        NoRoute = 312 "NO_ROUTE",
        NoConsumers = 313 "NO_CONSUMERS",
        AccessRefused = 403 "ACCESS_REFUSED",
        NotFound = 404 "NOT_FOUND",
        ResourceLocked = 405 "RESOURCE_LOCKED",
        PreconditionFailed = 406 "PRECONDITION_FAILED",
    }
}

codes! {
    /// Errors that close the connection (AMQP 0-9-1, 4.8.1).
    HardError {
        ConnectionForced = 320 "CONNECTION_FORCED",
        InvalidPath = 402 "INVALID_PATH",
        FrameError = 501 "FRAME_ERROR",
        SyntaxError = 502 "SYNTAX_ERROR",
        CommandInvalid = 503 "COMMAND_INVALID",
        ChannelError = 504 "CHANNEL_ERROR",
        UnexpectedFrame = 505 "UNEXPECTED_FRAME",
        ResourceError = 506 "RESOURCE_ERROR",
        NotAllowed = 530 "NOT_ALLOWED",
        NotImplemented = 540 "NOT_IMPLEMENTED",
        InternalError = 541 "INTERNAL_ERROR",
    }
}

/// A rule that was broken, with the reply that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Closes the channel; the connection goes on (4.8.1).
    #[error("{} - {text}", code.name())]
    Channel {
        /// Reply code.
        code: SoftError,
        /// What was expected and what came, without the code's name.
        text: String,
    },
    /// Closes the connection (4.8.1).
    #[error("{} - {text}", code.name())]
    Connection {
        /// Reply code.
        code: HardError,
        /// What was expected and what came, without the code's name.
        text: String,
    },
    /// Closes the connection with another code than a hard error's: any error on channel 0, or a refused
    /// login (403).
    #[error("{} - {text}", code.name())]
    ConnectionSoft {
        /// Reply code.
        code: SoftError,
        /// What was expected and what came, without the code's name.
        text: String,
    },
}

impl Violation {
    /// A channel error.
    pub fn channel(code: SoftError, text: impl Into<String>) -> Self {
        Self::Channel {
            code,
            text: text.into(),
        }
    }

    /// A connection error.
    pub fn connection(code: HardError, text: impl Into<String>) -> Self {
        Self::Connection {
            code,
            text: text.into(),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Channel { code, .. } | Self::ConnectionSoft { code, .. } => code.code(),
            Self::Connection { code, .. } => code.code(),
        }
    }

    /// What was expected and what came, without the code's name.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Channel { text, .. }
            | Self::Connection { text, .. }
            | Self::ConnectionSoft { text, .. } => text,
        }
    }

    /// `NAME - text`, at most 255 octets: longer text is cut on a character boundary and ends in `...`.
    #[must_use]
    pub fn reply_text(&self) -> String {
        let mut text = match self {
            Self::Connection {
                code: HardError::InternalError,
                text,
            } if text.is_empty() => "INTERNAL_ERROR".to_owned(),
            other => other.to_string(),
        };
        if text.len() > REPLY_TEXT_MAX {
            let mut end = REPLY_TEXT_MAX - 3;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str("...");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_text_fits_a_short_string() {
        let long = Violation::channel(SoftError::NotFound, "é".repeat(300)).reply_text();
        assert!(long.len() <= 255 && long.ends_with("...") && long.starts_with("NOT_FOUND - é"));
        let short = Violation::connection(HardError::FrameError, "x").reply_text();
        assert_eq!(short, "FRAME_ERROR - x");
        assert_eq!(
            Violation::connection(HardError::InternalError, "").reply_text(),
            "INTERNAL_ERROR"
        );
    }
}
