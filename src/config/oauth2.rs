//! `[oauth2]`: tokens in place of passwords.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mamba_auth::oauth::{Audience, KeySet, TokenSettings};
use mamba_broker::oauth::Tokens;
use mamba_server::{
    http_client::HttpUrl,
    oauth::{KeyFileError, KeySource, read_keys},
};
use serde::{Deserialize, Serialize};

/// What stands for the resource server's name in the prefix.
const ID: &str = "{resource_server_id}";

/// What tokens are held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Oauth2 {
    /// Empty: no tokens.
    pub(crate) resource_server_id: String,
    /// Empty: none are fetched.
    pub(crate) jwks_url: String,
    /// Empty: the system's authorities.
    pub(crate) jwks_ca: PathBuf,
    pub(crate) jwks_refresh_secs: u64,
    pub(crate) keys: Vec<KeyFile>,
    /// Empty: none.
    pub(crate) default_key: String,
    /// Empty: whoever has a key.
    pub(crate) issuer: String,
    pub(crate) verify_aud: bool,
    pub(crate) scope_prefix: String,
    pub(crate) additional_scopes_key: String,
    pub(crate) preferred_username_claims: Vec<String>,
    pub(crate) scope_aliases: Vec<Alias>,
    pub(crate) leeway_secs: u64,
}

/// A file with keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    /// What tokens call the key; key sets name their keys themselves.
    #[serde(default)]
    id: String,
    file: PathBuf,
}

/// A scope by another name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alias {
    alias: String,
    /// With blanks between several.
    scope: String,
}

impl Default for Oauth2 {
    fn default() -> Self {
        Self {
            resource_server_id: String::new(),
            jwks_url: String::new(),
            jwks_ca: PathBuf::new(),
            jwks_refresh_secs: 3600,
            keys: Vec::new(),
            default_key: String::new(),
            issuer: String::new(),
            verify_aud: true,
            scope_prefix: format!("{ID}."),
            additional_scopes_key: String::new(),
            preferred_username_claims: vec!["sub".to_owned(), "client_id".to_owned()],
            scope_aliases: Vec::new(),
            leeway_secs: 30,
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn given_path(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
}

impl Oauth2 {
    /// What tokens are held against, with the keys from files; `None` when there are only passwords.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub(crate) fn tokens(&self) -> Result<Option<Tokens>, KeyFileError> {
        if self.resource_server_id.is_empty() {
            return Ok(None);
        }
        let settings = TokenSettings {
            resource_server_id: self.resource_server_id.clone(),
            audience: if self.verify_aud {
                Audience::Verified
            } else {
                Audience::Any
            },
            scope_prefix: self.scope_prefix.replace(ID, &self.resource_server_id),
            issuer: given(&self.issuer),
            additional_scopes: words(&self.additional_scopes_key),
            name_claims: self.preferred_username_claims.clone(),
            aliases: self
                .scope_aliases
                .iter()
                .map(|one| (one.alias.clone(), words(&one.scope)))
                .collect(),
            default_key: given(&self.default_key),
            leeway: Duration::from_secs(self.leeway_secs),
        };
        if let Some(source) = self.source() {
            source.check()?;
        }
        Ok(Some(Tokens::new(settings, self.file_keys()?)))
    }

    /// The keys from files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub(crate) fn file_keys(&self) -> Result<KeySet, KeyFileError> {
        let mut all = Vec::new();
        for KeyFile { id, file } in &self.keys {
            all.extend(read_keys(file, given(id).as_deref())?);
        }
        Ok(all.into_iter().collect())
    }

    /// Where more keys are fetched from, if anywhere.
    pub(crate) fn source(&self) -> Option<KeySource> {
        Some(KeySource {
            url: self.jwks_url.parse::<HttpUrl>().ok()?,
            authorities: given_path(&self.jwks_ca),
            refresh: Duration::from_secs(self.jwks_refresh_secs),
        })
    }

    /// What makes no sense: (key, what came, what was expected).
    pub(crate) fn problems(&self) -> Vec<(&'static str, String, String)> {
        let mut problems = Vec::new();
        let mut demand = |key, holds: bool, came: &str, expected: &str| {
            if !holds {
                problems.push((key, came.to_owned(), expected.to_owned()));
            }
        };
        let is_on = !self.resource_server_id.is_empty();
        let has_keys = !self.keys.is_empty() || !self.jwks_url.is_empty();
        demand(
            "oauth2.resource_server_id",
            is_on || !has_keys,
            "\"\"",
            "the name tokens call this broker by (claim aud), because keys for tokens are set",
        );
        demand(
            "oauth2.jwks_url",
            has_keys || !is_on,
            "\"\"",
            "an address such as https://HOST/PATH, or oauth2.keys with files: tokens are verified with one of them",
        );
        if let (false, Err(expected)) = (self.jwks_url.is_empty(), self.jwks_url.parse::<HttpUrl>())
        {
            demand(
                "oauth2.jwks_url",
                false,
                &format!("{:?}", self.jwks_url),
                &expected,
            );
        }
        demand(
            "oauth2.jwks_refresh_secs",
            (10..=86_400).contains(&self.jwks_refresh_secs),
            &self.jwks_refresh_secs.to_string(),
            "10 to 86400 seconds",
        );
        demand(
            "oauth2.leeway_secs",
            self.leeway_secs <= 600,
            &self.leeway_secs.to_string(),
            "0 to 600 seconds",
        );
        demand(
            "oauth2.preferred_username_claims",
            !self.preferred_username_claims.is_empty(),
            "[]",
            "at least one claim that holds the user's name, such as \"sub\"",
        );
        problems
    }
}
