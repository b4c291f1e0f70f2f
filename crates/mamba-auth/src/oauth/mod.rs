//! OAuth 2: tokens (JWT) in place of passwords, as RabbitMQ's OAuth 2 backend reads them.
//!
//! [`TokenSettings::verify`] turns a token and the keys of this moment into a [`Token`], which says who it is and what it may do.
//! Nothing here fetches keys or reads files: they come as values.

mod key;
mod scope;
mod token;

pub use key::{InvalidKeys, Key, KeySet, Origin};
pub(crate) use scope::VhostScopes;
pub use token::{Audience, Token, TokenRefused, TokenSettings, looks_like_token};
