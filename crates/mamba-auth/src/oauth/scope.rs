//! Scopes: `RIGHT:VHOST/NAME` and `RIGHT:VHOST/EXCHANGE/ROUTING KEY`, each part a pattern in which `*` stands for anything.

use serde_json::{Map, Value};

use crate::permission::{Resource, Right, TopicRight};

/// What one scope allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    right: Right,
    vhost: Template,
    name: Template,
    /// Only scopes with it speak of topics.
    key: Option<Template>,
}

impl Scope {
    /// Reads a scope without its prefix; `None` for one that speaks of something else, or is malformed.
    pub(super) fn read(text: &str, claims: &Map<String, Value>) -> Option<Self> {
        let (right, rest) = text.split_once(':')?;
        let right = [Right::Configure, Right::Write, Right::Read]
            .into_iter()
            .find(|known| known.word() == right)?;
        let mut parts = rest.split('/').map(|part| Template::read(part, claims));
        let (vhost, name) = (parts.next()??, parts.next()??);
        let key = match parts.next() {
            Some(key) => Some(key?),
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            right,
            vhost,
            name,
            key,
        })
    }
}

/// A pattern as it was written: texts between stars, in which `{vhost}` is not filled in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Vec<Piece>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Vhost,
}

impl Template {
    /// `{claim}` stands for what the token says there, taken literally; for nothing at all if it says no text there.
    fn read(text: &str, claims: &Map<String, Value>) -> Option<Self> {
        let between_stars = |part: &str| {
            let mut pieces = Vec::new();
            let mut rest = part;
            while let Some((before, after)) = rest.split_once('{') {
                let (variable, after) = after.split_once('}')?;
                pieces.push(Piece::Text(decoded(before)?));
                pieces.push(match variable {
                    "vhost" => Piece::Vhost,
                    claim => Piece::Text(claims.get(claim)?.as_str()?.to_owned()),
                });
                rest = after;
            }
            pieces.push(Piece::Text(decoded(rest)?));
            Some(pieces)
        };
        text.split('*')
            .map(between_stars)
            .collect::<Option<_>>()
            .map(Self)
    }

    fn in_vhost(&self, vhost: &str) -> Wildcard {
        let filled = |pieces: &Vec<Piece>| {
            let texts = pieces.iter().map(|piece| match piece {
                Piece::Text(text) => text,
                Piece::Vhost => vhost,
            });
            texts.collect()
        };
        Wildcard(self.0.iter().map(filled).collect())
    }
}

/// Percent-encoding undone, `+` as a blank; `None` when it is malformed or no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let digit = |octet: u8| char::from(octet).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high << 4 | low).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

/// Texts between stars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wildcard(Vec<String>);

impl Wildcard {
    /// Takes no longer than the name and the pattern are: what stands before and after is fixed, the rest is looked for in order.
    fn matches(&self, name: &str) -> bool {
        let (first, middle, last) = match self.0.as_slice() {
            [] => return name.is_empty(),
            [all] => return name == all,
            [first, middle @ .., last] => (first, middle, last),
        };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else {
            return false;
        };
        for part in middle {
            match rest.split_once(part.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

/// What a token's scopes allow in one virtual host.
#[derive(Debug)]
pub(crate) struct VhostScopes(Vec<(Right, Wildcard, Option<Wildcard>)>);

impl VhostScopes {
    pub(super) fn new(scopes: &[Scope], vhost: &str) -> Self {
        let here = scopes
            .iter()
            .filter(|scope| scope.vhost.in_vhost(vhost).matches(vhost));
        let fill = |scope: &Scope| {
            let key = scope.key.as_ref().map(|key| key.in_vhost(vhost));
            (scope.right, scope.name.in_vhost(vhost), key)
        };
        Self(here.map(fill).collect())
    }

    /// Whether the virtual host may be opened: any scope for it will do.
    pub(crate) const fn may_open(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether a right to a resource is held.
    pub(crate) fn holds(&self, right: Right, resource: Resource<'_>) -> bool {
        let name = resource.name();
        self.0
            .iter()
            .any(|(held, pattern, _)| *held == right && pattern.matches(name))
    }

    /// Whether a right to a topic is held. Scopes without a part for the routing key hold none.
    pub(crate) fn holds_topic(&self, right: TopicRight, exchange: &str, key: &str) -> bool {
        let right = match right {
            TopicRight::Write => Right::Write,
            TopicRight::Read => Right::Read,
        };
        self.0.iter().any(|(held, name, keys)| {
            *held == right
                && keys.as_ref().is_some_and(|keys| keys.matches(key))
                && name.matches(exchange)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Map<String, Value> {
        match json!({"sub": "bob*", "n": 1}) {
            Value::Object(claims) => claims,
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn glob(pattern: &str, name: &str, expected: bool) {
        let template = Template::read(pattern, &claims()).unwrap();
        let found = template.in_vhost("a/b").matches(name);
        assert_eq!(found, expected, "{pattern} on {name}");
    }

    #[test]
    fn stars_stand_for_anything() {
        glob("*", "", true);
        glob("*", "anything/at all", true);
        glob("", "", true);
        glob("", "q", false);
        glob("q", "q", true);
        glob("q", "qq", false);
        glob("q*", "q", true);
        glob("*q", "qq", true);
        glob("a*b", "abb", true);
        glob("a*b", "a", false);
        glob("a*a", "a", false);
        glob("a**b", "ab", true);
        glob("a*b*c", "a-b-b-c", true);
        glob("a*b*c", "a-c-b", false);
        glob("%2F", "/", true);
        glob("%2A", "*", true);
        glob("%2A", "x", false);
        glob("a+b", "a b", true);
        glob("{vhost}", "a/b", true);
        glob("x-{vhost}-*", "x-a/b-y", true);
        glob("{sub}", "bob*", true);
        glob("{sub}", "bobby", false);
    }

    #[test]
    fn what_is_malformed_allows_nothing() {
        for text in [
            "read:*",
            "read:a/b/c/d",
            "read:%/x",
            "read:%zz/x",
            "read:%FF/x",
            "read:{nobody}/x",
            "read:{n}/x",
            "read:{sub/x",
            "publish:*/*",
            "tag:administrator",
            "read",
            "",
        ] {
            assert_eq!(Scope::read(text, &claims()), None, "{text}");
        }
    }

    #[test]
    fn rights_are_each_its_own() {
        let read = |text: &&str| Scope::read(text, &claims()).unwrap();
        let scopes: Vec<Scope> = [
            "configure:a/q*",
            "write:a/x/k.*",
            "read:{vhost}/{vhost}-q",
            "read:b/*",
        ]
        .iter()
        .map(read)
        .collect();
        let scopes = VhostScopes::new(&scopes, "a");
        assert!(scopes.may_open());
        assert!(scopes.holds(Right::Configure, Resource::Queue("q1")));
        assert!(!scopes.holds(Right::Write, Resource::Queue("q1")));
        assert!(scopes.holds(Right::Write, Resource::Exchange("x")));
        assert!(scopes.holds(Right::Read, Resource::Queue("a-q")));
        assert!(!scopes.holds(Right::Read, Resource::Queue("b-q")));
        assert!(scopes.holds_topic(TopicRight::Write, "x", "k.1"));
        assert!(!scopes.holds_topic(TopicRight::Write, "x", "l.1"));
        assert!(!scopes.holds_topic(TopicRight::Write, "y", "k.1"));
        assert!(!scopes.holds_topic(TopicRight::Read, "x", "k.1"));
        assert!(!VhostScopes::new(&[], "a").may_open());
    }
}
