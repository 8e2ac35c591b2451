//! The configuration of identity: section `auth`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use backscroll_shard::settings::Span;
use backscroll_shard::settings::check::{Check, Problem};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Fewest bytes of a shared secret.
pub const SECRET_MIN_BYTES: usize = 16;
/// A shared secret should have as many bytes as the hash has (RFC 7518, 3.2).
pub const SECRET_GOOD_BYTES: usize = 32;
/// Most secrets besides the one that signs.
const OTHER_SECRETS_MAX: usize = 8;

/// The claim that names the user in most tokens (RFC 7519, 4.1.2).
pub(super) const SUBJECT: &str = "sub";

/// Whose tokens are accepted. Exactly one algorithm is, so that a token cannot choose how it is checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// The one algorithm tokens are signed with.
    pub algorithm: TokenAlgorithm,
    /// The shared secret of HS256, which signs and verifies: at least 16 bytes, better 32.
    pub secret: Secret,
    /// Other shared secrets of HS256 that verify, too, while one is changed for another: at most 8.
    pub other_secrets: Vec<Secret>,
    /// For the other algorithms: a file with the issuer's public keys (a JWK set, RFC 7517), …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// … or the address to fetch it from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// How often the keys are read again. A token signed with a key not seen yet makes that happen sooner.
    pub jwks_refresh: Span,
    /// How far the issuer's clock may be off when `exp` and `nbf` are checked.
    pub leeway: Span,
    /// Required `iss`; without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Required member of `aud`; without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The claim that names the user: a text, or a whole number; one that begins with `/` is a JSON pointer, as `/user/id`.
    pub user_claim: String,
    /// The claim that holds the role, or the list of roles; one that begins with `/` is a JSON pointer, as `/realm_access/roles`.
    pub role_claim: String,
    /// The role that opens `/admin`.
    pub admin_role: String,
    /// The role that opens what moderators need of `/admin`; empty: no role does.
    pub moderator_role: String,
    /// Most valid tokens that are kept, so that they are not checked again until they end or the keys are read anew; 0
    /// for none.
    pub token_cache: usize,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            algorithm: TokenAlgorithm::HS256,
            secret: Secret::default(),
            other_secrets: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            jwks_refresh: Span::secs(300),
            leeway: Span::secs(30),
            issuer: None,
            audience: None,
            user_claim: SUBJECT.into(),
            role_claim: "role".into(),
            admin_role: "admin".into(),
            moderator_role: "moderator".into(),
            token_cache: 10_000,
        }
    }
}

impl AuthSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("auth");
        let has_keys = self.jwks_file.is_some() || self.jwks_url.is_some();
        if self.algorithm == TokenAlgorithm::HS256 {
            let enough = |secret: &Secret| secret.expose().len() >= SECRET_MIN_BYTES;
            check.require(
                "secret",
                enough(&self.secret),
                "HS256 needs at least 16 bytes, better 32; make one with `openssl rand -hex 32`",
            );
            check.require(
                "other_secrets",
                self.other_secrets.iter().all(enough)
                    && self.other_secrets.len() <= OTHER_SECRETS_MAX,
                "at most 8 secrets of at least 16 bytes each",
            );
            check.require(
                "algorithm",
                !has_keys,
                "HS256 uses auth.secret; with auth.jwks_file or auth.jwks_url it is RS256, ES256 or EdDSA",
            );
        } else {
            let name = self.algorithm.name();
            let one = self.jwks_file.is_some() != self.jwks_url.is_some();
            check.require(
                "jwks_url",
                one,
                format!("{name} needs either this or auth.jwks_file"),
            );
            check.require(
                "secret",
                self.secret.expose().is_empty(),
                format!("{name} uses public keys, remove the secret"),
            );
            check.require(
                "other_secrets",
                self.other_secrets.is_empty(),
                format!("{name} uses public keys, remove the secrets"),
            );
        }
        if let Some(url) = &self.jwks_url {
            let web = reqwest::Url::parse(url)
                .is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
            check.require("jwks_url", web, "write an http or https address");
        }
        let refresh_bounds = Duration::from_secs(1)..=Duration::from_secs(86_400);
        check.require(
            "jwks_refresh",
            refresh_bounds.contains(&self.jwks_refresh.0),
            "from 1s to 24h",
        );
        check.require(
            "leeway",
            self.leeway.0 <= Duration::from_secs(600),
            "at most 10 minutes",
        );
        for (name, text) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            check.require(
                name,
                text.as_deref() != Some(""),
                "must not be empty; leave it out to accept any",
            );
        }
        for (name, claim) in [
            ("user_claim", &self.user_claim),
            ("role_claim", &self.role_claim),
        ] {
            let named = !matches!(claim.as_str(), "" | "/");
            check.require(name, named, "must not be empty");
        }
        check.require(
            "token_cache",
            self.token_cache <= 1_000_000,
            "at most 1000000",
        );
        check.require(
            "moderator_role",
            self.moderator_role != self.admin_role,
            "must not be the administrators' role",
        );
        check.require(
            "admin_role",
            !self.admin_role.is_empty(),
            "must not be empty",
        );
        check.finish()
    }

    /// The shared secrets: the one that signs, then the others.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.secret).chain(&self.other_secrets)
    }

    /// Whether a shared secret is shorter than it should be, which is said at the start.
    #[must_use]
    pub fn has_short_secret(&self) -> bool {
        self.algorithm == TokenAlgorithm::HS256
            && self
                .secrets()
                .any(|secret| secret.expose().len() < SECRET_GOOD_BYTES)
    }
}

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256 and a shared secret.
    HS256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

impl TokenAlgorithm {
    /// The name, as in a token's header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    pub(super) fn jose(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// A text that is never shown: it prints, and is written into configurations, as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` as a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The usual message would show what was found instead of a text.
        String::deserialize(deserializer)
            .map(Self)
            .map_err(|_| de::Error::custom("write the secret as a text, in quotes"))
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(secret: &str) -> AuthSettings {
        AuthSettings {
            secret: Secret::new(secret),
            ..AuthSettings::default()
        }
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert_eq!(shared(&"x".repeat(15)).check().len(), 1);
        assert_eq!(shared("").check().len(), 1);
        let poor = shared("your-secret-key-here");
        assert_eq!((poor.check(), poor.has_short_secret()), (vec![], true));
        let good = shared(&"x".repeat(32));
        assert_eq!((good.check(), good.has_short_secret()), (vec![], false));
        let with = |others: &[&str]| AuthSettings {
            other_secrets: others.iter().copied().map(Secret::new).collect(),
            ..good.clone()
        };
        assert_eq!(with(&["another-secret-key"]).check(), []);
        assert!(with(&["another-secret-key"]).has_short_secret());
        assert_eq!(with(&["short"]).check()[0].key, "auth.other_secrets");
        assert_eq!(with(&["another-secret-key"; 9]).check().len(), 1);
    }

    #[test]
    fn public_key_algorithms_need_exactly_one_source_of_keys() {
        let with = |file: Option<&str>, url: Option<&str>| AuthSettings {
            algorithm: TokenAlgorithm::ES256,
            jwks_file: file.map(PathBuf::from),
            jwks_url: url.map(String::from),
            ..AuthSettings::default()
        };
        assert_eq!(with(Some("keys.json"), None).check(), []);
        assert_eq!(with(None, Some("https://id.example/jwks")).check(), []);
        assert_eq!(with(None, None).check().len(), 1);
        assert_eq!(
            with(Some("keys.json"), Some("https://id.example/jwks"))
                .check()
                .len(),
            1
        );
        assert_eq!(with(None, Some("file:///etc/passwd")).check().len(), 1);
        let confused = AuthSettings {
            secret: Secret::new("x".repeat(32)),
            ..with(Some("keys.json"), None)
        };
        assert_eq!(confused.check().len(), 1);
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut settings = shared("correct horse battery staple 0123456789");
        settings.other_secrets = vec![settings.secret.clone()];
        assert!(!format!("{settings:?}").contains("horse"));
        let written = serde_json::to_value(&settings).unwrap();
        assert_eq!(written["secret"], "***");
        assert_eq!(written["other_secrets"], serde_json::json!(["***"]));
        assert_eq!(written["algorithm"], "HS256");
        let unquoted =
            serde_json::from_str::<AuthSettings>(r#"{"secret": 31415926535897932384626433832795}"#);
        assert!(!unquoted.unwrap_err().to_string().contains("31415"));
    }
}
