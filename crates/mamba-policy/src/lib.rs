//! Policies, and the documents that carry a broker's definitions from one to another.
//!
//! Owns what RabbitMQ calls policies and operator policies: their validation, which of them apply to an object
//! ([`PolicySet::matching`]) and what then holds for it ([`QueueSettings`]). Owns the definitions document
//! ([`Definitions`]): reading one as a whole or not at all, and writing one. Does no input or output, knows
//! nothing of queues themselves, and panics on no input. Start reading at [`PolicySet`].

mod convert;
mod definitions;
mod effective;
mod key;
mod pattern;
mod policy;
mod read;
mod term;
mod write;

pub use convert::{table_from_json, table_to_json};
pub use definitions::{
    BindingDefinition, Credentials, Definitions, DefinitionsError, DestinationKind,
    ExchangeDefinition, Existing, GlobalParameter, Parameter, Permission, PolicyDefinition,
    QueueDefinition, Step, TopicPermission, User, VirtualHost,
};
pub use effective::{DeadLetterStrategy, DelayedRetry, Overflow, QueueSettings, Setting, Source};
pub use key::{Definition, QueueType, Scope};
pub use pattern::{PATTERN_BYTES_MAX, Pattern};
pub use policy::{Applied, ApplyTo, ObjectKind, Policy, PolicySet, ValidationError};
pub use write::About;
