//! Who asks, and what they may ask for (`spec: http-api §1, semantics §21`).

use std::{net::IpAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::HeaderValue;
use mamba_auth::{Ending, oauth::looks_like_token};
use mamba_broker::{Account, Attempt, Broker, LoginRefused, audit};
use tokio::{sync::oneshot, time::timeout};

use crate::{answer::Refusal, request::is_monitor};

/// How long a request waits for the key of its token.
const KEYS_TIME: Duration = Duration::from_secs(6);

/// What a request needs its user to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody in particular.
    Anybody,
    /// Tag `management` or one that implies it.
    Management,
    /// The same, with permissions in the path's virtual host; monitors need none to look.
    Vhost,
    /// Tag `policymaker`.
    Policymaker,
    /// The same, with permissions in the path's virtual host.
    PolicymakerInVhost,
    /// Tag `monitoring`.
    Monitoring,
    /// Tag `administrator`.
    Administrator,
}

/// Who is behind an `Authorization` header: a name with a password or token, or a token alone. Waits for the key of a token if it has
/// to be fetched. `now_ms` is the time in milliseconds since 1970.
///
/// # Errors
/// 401, whatever is wrong: only the log knows.
pub(crate) async fn authenticate(
    broker: &Broker,
    header: Option<&HeaderValue>,
    from: IpAddr,
    now_ms: u64,
) -> Result<Account, Refusal> {
    let header = header.ok_or_else(Refusal::no_credentials)?;
    let (name, password) = credentials(header.as_bytes()).ok_or_else(Refusal::wrong_credentials)?;
    let (rings, rung) = oneshot::channel::<()>();
    let bell = Box::new(move || drop(rings));
    let mut attempt = broker.authenticate(&name, &password, from, now_ms, Some(bell));
    if matches!(attempt, Attempt::Later) {
        // It rings by going away.
        let _ = timeout(KEYS_TIME, rung).await;
        attempt = broker.authenticate(&name, &password, from, now_ms, None);
    }
    let reason = match attempt {
        Attempt::In(account) => {
            broker.note_attempt(from, &account.user.name, "http", Ending::Succeeded);
            return Ok(account);
        }
        Attempt::Refused(reason) => reason,
        Attempt::Later => return Err(Refusal::wrong_credentials()),
    };
    let user = if looks_like_token(name.as_bytes()) {
        "(a token)"
    } else {
        &name
    };
    broker.note_attempt(from, user, "http", Ending::Failed);
    tracing::warn!(target: audit::TARGET, user, peer = %from, protocol = "http", result = "refused", %reason, "management login refused");
    Err(match reason {
        LoginRefused::NotLocal => Refusal::denied("User can only log in via localhost"),
        _ => Refusal::wrong_credentials(),
    })
}

/// A token needs no name.
fn credentials(header: &[u8]) -> Option<(String, String)> {
    if let Some((scheme, token)) = header.split_at_checked(7)
        && scheme.eq_ignore_ascii_case(b"bearer ")
    {
        let token = String::from_utf8(token.trim_ascii().to_vec()).ok()?;
        return Some((String::new(), token));
    }
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim_ascii()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// Whether the user is what the request needs.
///
/// # Errors
/// 401 saying what is missing.
pub(crate) fn check(
    broker: &Broker,
    account: &Account,
    access: Access,
    vhost: Option<&str>,
) -> Result<(), Refusal> {
    let user = &account.user;
    let tags = &user.tags;
    let manages = ["management", "policymaker", "monitoring", "administrator"];
    if !manages.iter().any(|tag| tags.contains(tag)) {
        return Err(Refusal::denied("Not management user"));
    }
    let tagged = match access {
        Access::Anybody | Access::Management | Access::Vhost => Ok(()),
        Access::Policymaker | Access::PolicymakerInVhost => {
            if tags.administrator() || tags.contains("policymaker") {
                Ok(())
            } else {
                Err("User not authorised to access object")
            }
        }
        Access::Monitoring => is_monitor(user).then_some(()).ok_or("Not monitor user"),
        Access::Administrator => tags
            .administrator()
            .then_some(())
            .ok_or("Not administrator user"),
    };
    tagged.map_err(Refusal::denied)?;
    if !matches!(access, Access::Vhost | Access::PolicymakerInVhost) {
        return Ok(());
    }
    // A virtual host that is not there is the handler's affair.
    match vhost.filter(|vhost| broker.vhost(vhost).is_some()) {
        Some(vhost) if !is_monitor(user) && !broker.may_open(account, vhost) => Err(
            Refusal::denied("User not authorised to access virtual host"),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Option<(&str, &str)>) {
        let found = credentials(header.as_bytes());
        let expected = expected.map(|(name, password)| (name.to_owned(), password.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn basic_credentials() {
        check("Basic Z3Vlc3Q6Z3Vlc3Q=", Some(("guest", "guest")));
        check("basic  Z3Vlc3Q6Z3Vlc3Q=", Some(("guest", "guest")));
        check("Basic YTpiOmM=", Some(("a", "b:c")));
        check("Basic Og==", Some(("", "")));
        check("Basic Z3Vlc3Q=", None);
        check("Basic !!!", None);
        check("Basic /////w==", None);
        check("Bearer a.b.c", Some(("", "a.b.c")));
        check("bearer  a.b.c ", Some(("", "a.b.c")));
        check("Digest a.b.c", None);
        check("", None);
    }
}
