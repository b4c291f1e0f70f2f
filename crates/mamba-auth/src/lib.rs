//! Users and what they may do, as plain values: password hashes, tokens, tags, limits, permissions and topic permissions, and
//! a brake on guessing.
//!
//! Knows no disk, no socket and no clock: time and randomness are arguments. Start reading at [`Directory`], which holds
//! everyone, at [`Grants`], which answers what one user may do in one virtual host, and at [`oauth`] for those who come with tokens.

mod attempts;
mod directory;
mod limit;
pub mod oauth;
mod password;
mod permission;
mod throttle;
mod user;

pub use attempts::{Attempts, Count, Ending, Source};
pub use directory::{Directory, Grants};
pub use limit::{Limit, UserLimits, VhostLimits};
pub use password::{HashAlgorithm, InvalidHash, PasswordHash, is_same};
pub use permission::{
    InvalidPattern, Pattern, Permissions, Resource, Right, TopicPermissions, TopicRight,
};
pub use throttle::{Throttle, Verdict};
pub use user::{TAGS_MAX, Tags, TooManyTags, User};
