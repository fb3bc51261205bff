//! The access tokens an instance has issued, and which one it hands out.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{client::TokenFormat, clock::later};

/// What the instance does when it is asked again before a token's expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenMode {
    /// The same token; its expiry moves to a full lifetime from now. One support article says so.
    #[default]
    ReuseSlide,
    /// The same token; its expiry stays and `expires_in` counts down to it.
    ReuseRemaining,
    /// Another token; older ones stay valid until their own expiry.
    AlwaysNew,
}

/// Whom a token speaks for. Everyone who asks for the same shares the token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub(super) client: String,
    pub(super) user: String,
    pub(super) scopes: BTreeSet<String>,
}

/// A token handed out.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    pub(super) expires_at: Timestamp,
}

/// Every token that was issued and not revoked.
#[derive(Default)]
pub(super) struct Tokens {
    expiries: HashMap<String, Timestamp>,
    current: HashMap<Holder, Issued>,
    /// Those that were handed out, in their order.
    refresh_tokens: Vec<String>,
    issued: usize,
}

impl Tokens {
    /// The token for `holder`, new or current as `mode` says.
    pub(super) fn issue(
        &mut self,
        holder: Holder,
        lifetime: Duration,
        format: TokenFormat,
        mode: TokenMode,
        now: Timestamp,
    ) -> Issued {
        let current = self
            .current
            .get(&holder)
            .filter(|token| self.is_valid(&token.access_token, now));
        let mut token = match (mode, current) {
            (TokenMode::AlwaysNew, _) | (_, None) => {
                self.issued += 1;
                Issued {
                    access_token: random_token(format),
                    refresh_token: random_token(TokenFormat::Opaque),
                    expires_at: later(now, lifetime),
                }
            }
            (TokenMode::ReuseSlide | TokenMode::ReuseRemaining, Some(current)) => current.clone(),
        };
        if mode == TokenMode::ReuseSlide {
            token.expires_at = later(now, lifetime);
        }
        self.expiries
            .insert(token.access_token.clone(), token.expires_at);
        self.current.insert(holder, token.clone());
        token
    }

    /// Every refresh token that was handed out.
    pub(super) fn refresh_tokens(&self) -> impl Iterator<Item = &str> {
        self.refresh_tokens.iter().map(String::as_str)
    }

    /// A refresh token is handed out.
    pub(super) fn hand_out_refresh_token(&mut self, token: &str) {
        if !self.refresh_tokens().any(|known| known == token) {
            self.refresh_tokens.push(token.to_owned());
        }
    }

    pub(super) fn is_valid(&self, token: &str, now: Timestamp) -> bool {
        self.expiries.get(token).is_some_and(|expiry| now < *expiry)
    }

    pub(super) fn expires_at(&self, token: &str) -> Option<Timestamp> {
        self.expiries.get(token).copied()
    }

    /// How many tokens are valid at `now`.
    pub(super) fn count_valid(&self, now: Timestamp) -> usize {
        self.expiries
            .values()
            .filter(|expiry| now < **expiry)
            .count()
    }

    pub(super) fn revoke(&mut self, token: &str) {
        self.expiries.remove(token);
    }

    pub(super) fn revoke_all(&mut self) {
        self.expiries.clear();
    }

    pub(super) fn issued(&self) -> usize {
        self.issued
    }

    pub(super) fn reset_count(&mut self) {
        self.issued = 0;
    }
}

fn random_token(format: TokenFormat) -> String {
    match format {
        // 64 bytes make the 86 characters that tokens of current releases have.
        TokenFormat::Opaque => URL_SAFE_NO_PAD.encode(rand::random::<[u8; 64]>()),
        TokenFormat::Jwt => {
            let claims = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 160]>());
            let signature = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 256]>());
            format!(
                "{}.{claims}.{signature}",
                URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#)
            )
        }
    }
}
