//! Who calls: bearer tokens (JWT, RFC 7519) and the keys they are checked with.
//!
//! The algorithm is pinned by the configuration. What a token's header says about algorithms is only ever compared with
//! it, so `none`, another algorithm, or a public key used as an HMAC secret cannot pass. Users are not registered: a
//! valid token is the identity.

mod cache;
mod jwks;
pub mod settings;
mod staff;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use backscroll_shard::ids::UserId;
use backscroll_shard::sanctions::{Sanctioned, Sanctions};
use backscroll_shard::settings::check;
use backscroll_shard::tasks::TaskGroup;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use cache::TokenCache;
use jwks::KeySource;

use crate::metrics;
pub use settings::{AuthSettings, Secret, TokenAlgorithm};
pub use staff::{StaffRole, StaffRoles};

/// Longest token that is looked at, in bytes.
pub const TOKEN_MAX_BYTES: usize = 8192;

/// Who a valid token says the caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's subject.
    pub user: UserId,
    /// The roles of the staff that the token has.
    pub staff: StaffRoles,
    /// When the token was issued, in seconds since 1970, if it says so.
    pub issued_at: Option<u64>,
    /// When the token ends, in seconds since 1970.
    pub expires_at: u64,
    /// Which of the issuer's keys it was signed with, by its material; none for a shared secret.
    pub key: Option<NonZeroU64>,
}

/// Why a caller is not let in. The texts are safe to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token was given.
    #[error("send a token in the header `Authorization: Bearer <token>`")]
    Missing,
    /// The token was valid once.
    #[error("the token has expired; get a new one")]
    Expired,
    /// The token is not, or not yet, one of ours.
    #[error("{0}")]
    Invalid(&'static str),
    /// The issuer's keys were never read, so no token can be checked.
    #[error("tokens cannot be checked just now")]
    KeysUnavailable,
    /// A moderator has shut the user out.
    #[error(transparent)]
    Sanctioned(Sanctioned),
}

/// Checks tokens.
pub struct Authenticator {
    keys: Keys,
    valid: TokenCache,
    checks: Checks,
    validation: Validation,
    user_claim: String,
    role_claim: String,
    admin_role: String,
    moderator_role: String,
    sanctions: Option<Arc<Sanctions>>,
}

/// How many tokens were presented, by outcome.
#[derive(Debug, Default)]
struct Checks {
    known: AtomicU64,
    valid: AtomicU64,
    refused: AtomicU64,
}

enum Keys {
    /// The first signs; all verify.
    Shared(Vec<DecodingKey>),
    Issuer(Box<KeySource>),
}

impl Authenticator {
    /// Prepares what `settings` ask for, and reads the keys. A file must be readable; an address may be away for now.
    ///
    /// # Errors
    /// When the settings are not usable (see [`AuthSettings::check`]), or the file of keys is not.
    pub async fn open(settings: &AuthSettings) -> anyhow::Result<Self> {
        let problems = settings.check();
        anyhow::ensure!(
            problems.is_empty(),
            "{}",
            check::lines(&problems).join("\n")
        );
        let keys = if settings.algorithm == TokenAlgorithm::HS256 {
            if settings.has_short_secret() {
                tracing::warn!(
                    "a secret in auth.secret or auth.other_secrets has less than {} bytes: with a token at hand it may be guessed; \
                     make a longer one with `openssl rand -hex 32`",
                    settings::SECRET_GOOD_BYTES
                );
            }
            let secrets = settings.secrets();
            let key = |secret: &Secret| DecodingKey::from_secret(secret.expose().as_bytes());
            Keys::Shared(secrets.map(key).collect())
        } else {
            let source = KeySource::new(settings)?;
            let first = source.refresh().await;
            if settings.jwks_file.is_some() {
                first?;
            }
            Keys::Issuer(Box::new(source))
        };
        Ok(Self {
            keys,
            valid: TokenCache::new(settings.token_cache),
            checks: Checks::default(),
            validation: validation(settings),
            user_claim: settings.user_claim.clone(),
            role_claim: settings.role_claim.clone(),
            admin_role: settings.admin_role.clone(),
            moderator_role: settings.moderator_role.clone(),
            sanctions: None,
        })
    }

    /// Sets the counters of tokens; to be called when metrics are asked for, because counting there costs a request less.
    pub fn measure(&self) {
        let Checks {
            known,
            valid,
            refused,
        } = &self.checks;
        for (outcome, count) in [("known", known), ("valid", valid), ("refused", refused)] {
            let counter = metrics::TOKEN_CHECKS.with([outcome]);
            counter.absolute(count.load(Ordering::Relaxed));
        }
    }

    /// Who the bearer of `token` is. Waits, at most until `deadline`, only when the token names a key not seen before.
    ///
    /// # Errors
    /// [`AuthError::Expired`], [`AuthError::Invalid`] with what is wrong, or [`AuthError::KeysUnavailable`].
    pub async fn verify(&self, token: &str, deadline: Instant) -> Result<Identity, AuthError> {
        let identity = self.identify(token, deadline).await?;
        if let Some(sanctions) = &self.sanctions {
            let admitted = sanctions.admit(&identity.user, identity.issued_at);
            admitted.map_err(AuthError::Sanctioned)?;
        }
        Ok(identity)
    }

    /// The user that a token names, whatever is imposed on them.
    async fn identify(&self, token: &str, deadline: Instant) -> Result<Identity, AuthError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(AuthError::Invalid("the token is longer than 8192 bytes"));
        }
        // Taken before the keys are, so that keys which change meanwhile end what is kept.
        let generation = match &self.keys {
            Keys::Shared(_) => 0,
            Keys::Issuer(source) => source.generation(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(u64::MAX, |now| now.as_secs());
        if let Some(identity) = self.valid.get(token, generation, now) {
            self.checks.known.fetch_add(1, Ordering::Relaxed);
            return Ok(identity);
        }
        let verified = self.verify_anew(token, deadline).await;
        let identity = verified.inspect_err(|_| {
            self.checks.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        self.checks.valid.fetch_add(1, Ordering::Relaxed);
        self.valid.put(token, generation, &identity);
        Ok(identity)
    }

    async fn verify_anew(&self, token: &str, deadline: Instant) -> Result<Identity, AuthError> {
        match &self.keys {
            Keys::Shared(keys) => {
                let mut verified = Err(AuthError::Invalid(WRONG_SIGNATURE));
                for key in keys {
                    verified = self.verify_with(token, key, None);
                    if verified != Err(AuthError::Invalid(WRONG_SIGNATURE)) {
                        break;
                    }
                }
                verified
            }
            Keys::Issuer(source) => {
                let header = jsonwebtoken::decode_header(token).map_err(|error| refusal(&error))?;
                if !self.validation.algorithms.contains(&header.alg) {
                    return Err(AuthError::Invalid(WRONG_ALGORITHM));
                }
                let found = source
                    .find(header.kid.as_deref(), deadline)
                    .await
                    .map_err(|_| AuthError::KeysUnavailable)?;
                let key = found.ok_or(AuthError::Invalid(
                    "the token is signed with a key that is not in the issuer's set",
                ))?;
                self.verify_with(token, &key.decoding, Some(key.id))
            }
        }
    }

    /// Refuses users whom `sanctions` shut out.
    #[must_use]
    pub fn heeding(mut self, sanctions: &Arc<Sanctions>) -> Self {
        self.sanctions = Some(Arc::clone(sanctions));
        self
    }

    /// Keeps the issuer's keys fresh, in a task of `tasks` until `stop`. There is none where there is nothing to keep fresh.
    pub fn maintain(self: &Arc<Self>, tasks: &TaskGroup, stop: &CancellationToken) {
        if let Keys::Issuer(_) = &self.keys {
            let (this, stopping) = (Arc::clone(self), stop.clone());
            tasks.supervise("jwks-refresh", stop, move || {
                Arc::clone(&this).keep_fresh(stopping.clone())
            });
        }
    }

    async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let Keys::Issuer(source) = &self.keys else {
            return stop.cancelled().await;
        };
        while stop
            .run_until_cancelled(tokio::time::sleep(source.refresh_interval()))
            .await
            .is_some()
        {
            // A failure is logged where it happens, and shown by `failure`.
            let _ = source.refresh().await;
        }
    }

    /// Why the issuer's keys could not be read the last time; none when they could, or there are none to read.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match &self.keys {
            Keys::Shared(_) => None,
            Keys::Issuer(source) => source.failure(),
        }
    }

    /// Whether tokens that were signed with this key are still accepted. A key is withdrawn when the issuer's set, read anew, has it
    /// no longer.
    #[must_use]
    pub fn trusts(&self, key: NonZeroU64) -> bool {
        match &self.keys {
            Keys::Shared(_) => true,
            Keys::Issuer(source) => source.has(key),
        }
    }

    /// Whether there is a key to check tokens with, be it an old one.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        match &self.keys {
            Keys::Shared(_) => true,
            Keys::Issuer(source) => source.has_keys(),
        }
    }

    fn verify_with(
        &self,
        token: &str,
        key: &DecodingKey,
        key_id: Option<NonZeroU64>,
    ) -> Result<Identity, AuthError> {
        let decoded = jsonwebtoken::decode::<Value>(token, key, &self.validation)
            .map_err(|error| refusal(&error))?;
        if decoded.header.crit.is_some() {
            return Err(AuthError::Invalid(
                "the token's header has a `crit` that is not understood",
            ));
        }
        let user = user_named(claim(&decoded.claims, &self.user_claim))?;
        Ok(Identity {
            user,
            staff: self.staff_roles(&decoded.claims),
            issued_at: decoded.claims.get("iat").map(|at| seconds(Some(at))),
            expires_at: seconds(decoded.claims.get("exp")),
            key: key_id,
        })
    }

    fn staff_roles(&self, claims: &Value) -> StaffRoles {
        let roles = match claim(claims, &self.role_claim) {
            Some(Value::Array(roles)) => roles.as_slice(),
            Some(role) => std::slice::from_ref(role),
            None => &[],
        };
        let has = |role: &StaffRole| {
            let name = match role {
                StaffRole::Admin => &self.admin_role,
                StaffRole::Moderator => &self.moderator_role,
            };
            !name.is_empty() && roles.iter().any(|role| role.as_str() == Some(name))
        };
        StaffRole::ALL.into_iter().filter(has).collect()
    }
}

/// The value of a claim: `name` is its name, or a JSON pointer.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    match name.starts_with('/') {
        true => claims.pointer(name),
        false => claims.get(name),
    }
}

/// The user that a claim names.
fn user_named(claim: Option<&Value>) -> Result<UserId, AuthError> {
    let name = match claim {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Number(number)) if number.is_u64() => number.to_string(),
        _ => {
            return Err(AuthError::Invalid(
                "the token's claim that names the user is missing, or neither a text nor a whole number",
            ));
        }
    };
    let user = UserId::new(&name).and_then(|user| user.check_new().map(|()| user));
    user.map_err(|_| {
        AuthError::Invalid(
            "the token names no user id: 1 to 64 bytes without control characters, not `.` or `..`",
        )
    })
}

/// A time claim, which may be written with a fraction. The token's validation has made sure that it is a number.
fn seconds(claim: Option<&Value>) -> u64 {
    let exact = claim.and_then(Value::as_u64);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and a fraction of a second does not matter"
    )]
    exact
        .or_else(|| claim.and_then(Value::as_f64).map(|time| time as u64))
        .unwrap_or(0)
}

fn validation(settings: &AuthSettings) -> Validation {
    let mut validation = Validation::new(settings.algorithm.jose());
    validation.leeway = settings.leeway.0.as_secs();
    validation.validate_nbf = true;
    validation.validate_aud = settings.audience.is_some();
    let mut required = vec!["exp"];
    if settings.user_claim == settings::SUBJECT {
        required.push(settings::SUBJECT);
    }
    if let Some(issuer) = &settings.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = &settings.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

const WRONG_ALGORITHM: &str = "the token is not signed with the algorithm this service accepts";

const WRONG_SIGNATURE: &str = "the token's signature is wrong";

fn refusal(error: &jsonwebtoken::errors::Error) -> AuthError {
    AuthError::Invalid(match error.kind() {
        ErrorKind::ExpiredSignature => return AuthError::Expired,
        ErrorKind::InvalidSignature => WRONG_SIGNATURE,
        ErrorKind::InvalidAlgorithm => WRONG_ALGORITHM,
        ErrorKind::ImmatureSignature => "the token is not valid yet (`nbf`)",
        ErrorKind::InvalidIssuer => "the token is from another issuer (`iss`)",
        ErrorKind::InvalidAudience => "the token is for another audience (`aud`)",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token lacks `exp`, or it is not a time",
            "sub" => "the token lacks `sub`, or it is not a string",
            "iss" => "the token lacks `iss`",
            _ => "the token lacks `aud`",
        },
        ErrorKind::InvalidClaimFormat(_) => "the token's `exp` or `nbf` is not a time",
        _ => "the token is not a JSON Web Token that can be read",
    })
}

/// Makes a token for `user` that this configuration accepts for `ttl`, with `role` in the configured claim.
///
/// # Errors
/// When the configuration has no shared secret to sign with, or the time is out of range.
pub fn mint_token(
    settings: &AuthSettings,
    user: &UserId,
    role: Option<&str>,
    ttl: Duration,
) -> anyhow::Result<String> {
    anyhow::ensure!(
        settings.algorithm == TokenAlgorithm::HS256,
        "tokens can only be made here with auth.algorithm = \"HS256\"; ask the issuer of your {} tokens",
        settings.algorithm.name()
    );
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let expires = now
        .checked_add(ttl.as_secs())
        .filter(|&at| i64::try_from(at).is_ok())
        .context("the time to live is too long")?;
    let mut claims = json!({ "iat": now, "exp": expires });
    set_claim(&mut claims, &settings.user_claim, user.as_str());
    for (name, value) in [("iss", &settings.issuer), ("aud", &settings.audience)] {
        if let Some(value) = value {
            claims[name] = json!(value);
        }
    }
    if let Some(role) = role {
        set_claim(&mut claims, &settings.role_claim, role);
    }
    let key = EncodingKey::from_secret(settings.secret.expose().as_bytes());
    Ok(jsonwebtoken::encode(
        &Header::new(settings.algorithm.jose()),
        &claims,
        &key,
    )?)
}

/// Puts `value` where `claim`, a name or a JSON pointer, says.
fn set_claim(claims: &mut Value, claim: &str, value: &str) {
    let Some(pointer) = claim.strip_prefix('/') else {
        claims[claim] = json!(value);
        return;
    };
    let mut place = claims;
    for name in pointer.split('/') {
        let name = name.replace("~1", "/").replace("~0", "~");
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = json!(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn roles_of(role_claim: &str, claims: Value) -> bool {
        let settings = AuthSettings {
            secret: Secret::new("x".repeat(32)),
            role_claim: role_claim.into(),
            ..AuthSettings::default()
        };
        let key = EncodingKey::from_secret(settings.secret.expose().as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        let authenticator = Authenticator::open(&settings).await.unwrap();
        authenticator
            .verify(&token, Instant::now())
            .await
            .unwrap()
            .staff
            .include_any(&[StaffRole::Admin])
    }

    #[tokio::test]
    async fn the_role_is_read_from_the_configured_claim_only() {
        let base = || json!({ "sub": "a", "exp": u32::MAX });
        let with = |name: &str, value: Value| {
            let mut claims = base();
            claims[name] = value;
            claims
        };
        assert!(roles_of("role", with("role", json!("admin"))).await);
        assert!(roles_of("roles", with("roles", json!(["user", "admin"]))).await);
        assert!(
            roles_of(
                "https://a.example/roles",
                with("https://a.example/roles", json!(["admin"]))
            )
            .await
        );
        assert!(
            roles_of(
                "/realm_access/roles",
                with("realm_access", json!({ "roles": ["admin"] }))
            )
            .await
        );
        for wrong in [
            json!("user"),
            json!("Admin"),
            json!("admin "),
            json!(true),
            json!({ "admin": true }),
            json!([["admin"]]),
            Value::Null,
        ] {
            assert!(
                !roles_of("role", with("role", wrong.clone())).await,
                "{wrong}"
            );
        }
        assert!(!roles_of("role", base()).await);
        assert!(!roles_of("role", with("admin", json!(true))).await);
        assert!(!roles_of("role", with("roles", json!("admin"))).await);
    }

    #[tokio::test]
    async fn a_minted_token_says_what_was_asked() {
        for role_claim in ["role", "/realm_access/roles", "/a~1b"] {
            let settings = AuthSettings {
                secret: Secret::new("x".repeat(32)),
                role_claim: role_claim.into(),
                issuer: Some("here".into()),
                audience: Some("chat".into()),
                ..AuthSettings::default()
            };
            let authenticator = Authenticator::open(&settings).await.unwrap();
            let user = UserId::new("日本 '\"").unwrap();
            let of = |role| StaffRoles::from_iter([role]);
            for (role, staff) in [
                (Some("admin"), of(StaffRole::Admin)),
                (Some("moderator"), of(StaffRole::Moderator)),
                (Some("user"), StaffRoles::default()),
                (None, StaffRoles::default()),
            ] {
                let token = mint_token(&settings, &user, role, Duration::from_secs(60)).unwrap();
                let identity = authenticator.verify(&token, Instant::now()).await.unwrap();
                assert_eq!(
                    (&identity.user, identity.staff),
                    (&user, staff),
                    "{role_claim} {role:?}"
                );
                let now = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs();
                assert!((now + 55..=now + 60).contains(&identity.expires_at));
            }
            mint_token(&settings, &user, None, Duration::MAX).unwrap_err();
        }
        let public = AuthSettings {
            algorithm: TokenAlgorithm::RS256,
            ..AuthSettings::default()
        };
        let refused = mint_token(
            &public,
            &UserId::new("a").unwrap(),
            None,
            Duration::from_secs(1),
        )
        .unwrap_err();
        assert!(refused.to_string().contains("RS256"), "{refused}");
    }
}
