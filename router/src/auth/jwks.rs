//! The issuer's public keys: a JWK set (RFC 7517) from a file or an address, read again from time to time.
//!
//! The last good set stays in use while the source is away or broken. A token that names a key which is not in the set
//! makes the set be read at once, but only one reader at a time, and no sooner than [`MIN_INTERVAL`] after the last:
//! forged tokens cannot make us hammer the issuer. What is read is bounded in bytes, keys and time (INV-BOUND).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout_at;

use super::settings::{AuthSettings, TokenAlgorithm};
use crate::metrics;

/// Shortest time between two readings that unknown keys cause.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// Longest reading.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest document.
const MAX_BYTES: usize = 256 * 1024;
/// Most keys in a set.
const MAX_KEYS: usize = 100;
/// Fewest bits of an RSA modulus (RFC 7518, 3.3), as base64url characters of its 256 bytes.
const RSA_MIN_MODULUS_CHARACTERS: usize = 342;

/// Keys that are looked up by the `kid` of a token's header.
pub(super) struct KeySource {
    location: Location,
    algorithm: TokenAlgorithm,
    refresh_interval: Duration,
    keys: RwLock<Arc<KeySet>>,
    /// How many sets were read.
    generation: AtomicU64,
    /// When the source was last asked. Whoever holds it asks.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// Why the last reading failed; none after a good one.
    failure: RwLock<Option<String>>,
}

enum Location {
    File(PathBuf),
    Url {
        client: reqwest::Client,
        url: reqwest::Url,
    },
}

/// The usable keys of one reading.
#[derive(Debug, Default)]
struct KeySet {
    by_id: HashMap<String, Arc<Key>>,
    without_id: Vec<Arc<Key>>,
}

/// A usable key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) decoding: DecodingKey,
    /// The key's material as a number. Another name for the same key does not change it.
    pub(super) id: NonZeroU64,
}

fn id_of(key: &Jwk) -> NonZeroU64 {
    let mut hasher = DefaultHasher::new();
    key.algorithm.hash(&mut hasher);
    NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN)
}

impl KeySource {
    /// A source without keys yet; [`Self::refresh`] reads them.
    pub(super) fn new(settings: &AuthSettings) -> anyhow::Result<Self> {
        let location = match (&settings.jwks_file, &settings.jwks_url) {
            (Some(path), None) => Location::File(path.clone()),
            (None, Some(url)) => {
                let url = reqwest::Url::parse(url).context("auth.jwks_url is not an address")?;
                let client = reqwest::Client::builder()
                    .https_only(url.scheme() == "https")
                    .redirect(reqwest::redirect::Policy::limited(3))
                    .connect_timeout(READ_TIMEOUT / 2)
                    .timeout(READ_TIMEOUT)
                    .build()
                    .context("cannot prepare to fetch auth.jwks_url")?;
                Location::Url { client, url }
            }
            _ => bail!("exactly one of auth.jwks_file and auth.jwks_url is needed"),
        };
        Ok(Self {
            location,
            algorithm: settings.algorithm,
            refresh_interval: settings.jwks_refresh.0,
            keys: RwLock::default(),
            generation: AtomicU64::new(0),
            asked: tokio::sync::Mutex::new(None),
            failure: RwLock::new(Some("not read yet".into())),
        })
    }

    /// How often [`Self::refresh`] is to be called.
    pub(super) fn refresh_interval(&self) -> Duration {
        self.refresh_interval
    }

    /// The key that `key_id` names. Without one in the token, the only key there is.
    ///
    /// `Ok(None)` when there is none. An error when no set was ever read, so that nobody can say.
    pub(super) async fn find(
        &self,
        key_id: Option<&str>,
        deadline: Instant,
    ) -> anyhow::Result<Option<Arc<Key>>> {
        if let Some(key) = self.current().find(key_id) {
            return Ok(Some(key));
        }
        // Somebody who waited for another's reading finds it fresh, and does not ask again.
        if timeout_at(deadline.into(), self.refresh_if_older(MIN_INTERVAL))
            .await
            .is_err()
        {
            bail!("the keys did not arrive before the request's deadline");
        }
        let keys = self.current();
        ensure!(!keys.is_empty(), "no keys could be read yet");
        Ok(keys.find(key_id))
    }

    /// Reads the set again. After an error the last good one stays.
    pub(super) async fn refresh(&self) -> anyhow::Result<()> {
        self.refresh_if_older(Duration::ZERO).await;
        match self.failure() {
            None => Ok(()),
            Some(why) => bail!(why),
        }
    }

    /// Why the last reading failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another number after every reading. Whoever sees it before taking keys has keys as new as that, or newer.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the set has this key.
    pub(super) fn has(&self, id: NonZeroU64) -> bool {
        self.current().all().any(|key| key.id == id)
    }

    /// Whether a set was ever read.
    pub(super) fn has_keys(&self) -> bool {
        !self.current().is_empty()
    }

    async fn refresh_if_older(&self, age: Duration) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < age) {
            return;
        }
        *asked = Some(Instant::now());
        let outcome = match tokio::time::timeout(READ_TIMEOUT, self.read()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer within {READ_TIMEOUT:?}")),
        };
        let failure = match outcome {
            Ok(keys) => {
                metrics::JWKS_REFRESHES.with(["ok"]).increment(1);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                self.generation.fetch_add(1, Ordering::Release);
                None
            }
            Err(error) => {
                metrics::JWKS_REFRESHES.with(["error"]).increment(1);
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the issuer's keys could not be read; the last good ones stay"
                );
                Some(format!("{error:#}"))
            }
        };
        *self.failure.write().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    async fn read(&self) -> anyhow::Result<KeySet> {
        let bytes = match &self.location {
            Location::File(path) => {
                let file = tokio::fs::File::open(path)
                    .await
                    .with_context(|| format!("auth.jwks_file {}", path.display()))?;
                let mut bytes = Vec::new();
                file.take(MAX_BYTES as u64 + 1)
                    .read_to_end(&mut bytes)
                    .await?;
                bytes
            }
            Location::Url { client, url } => {
                let mut response = client.get(url.clone()).send().await?.error_for_status()?;
                let mut bytes = Vec::new();
                while bytes.len() <= MAX_BYTES
                    && let Some(chunk) = response.chunk().await?
                {
                    bytes.extend_from_slice(&chunk);
                }
                bytes
            }
        };
        ensure!(
            bytes.len() <= MAX_BYTES,
            "the key set is larger than {MAX_BYTES} bytes"
        );
        KeySet::parse(&bytes, self.algorithm)
    }

    fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeySet {
    /// Takes the keys of `document` that can verify `algorithm`; others are none of our business.
    fn parse(document: &[u8], algorithm: TokenAlgorithm) -> anyhow::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document = serde_json::from_slice(document).context("not a JWK set")?;
        ensure!(
            document.keys.len() <= MAX_KEYS,
            "the key set has more than {MAX_KEYS} keys"
        );
        let mut set = Self::default();
        for key in document.keys {
            let Ok(key) = serde_json::from_value::<Jwk>(key) else {
                continue;
            };
            if !verifies(&key, algorithm) {
                continue;
            }
            let Ok(decoding) = DecodingKey::from_jwk(&key) else {
                continue;
            };
            let usable = Arc::new(Key {
                decoding,
                id: id_of(&key),
            });
            match key.common.key_id {
                Some(id) => {
                    ensure!(
                        set.by_id.insert(id, usable).is_none(),
                        "the key set has two keys with one id"
                    );
                }
                None => set.without_id.push(usable),
            }
        }
        ensure!(
            !set.is_empty(),
            "the key set has no key for {}",
            algorithm.name()
        );
        Ok(set)
    }

    fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.without_id.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.by_id.values().chain(&self.without_id)
    }

    fn find(&self, key_id: Option<&str>) -> Option<Arc<Key>> {
        if let Some(key_id) = key_id {
            return self.by_id.get(key_id).cloned();
        }
        let mut all = self.all();
        let only = all.next().cloned();
        if all.next().is_some() { None } else { only }
    }
}

/// Whether `key` is a public key meant for signatures of exactly `algorithm`, and long enough.
fn verifies(key: &Jwk, algorithm: TokenAlgorithm) -> bool {
    let right_kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(rsa), TokenAlgorithm::RS256) => {
            rsa.n.trim_end_matches('=').len() >= RSA_MIN_MODULUS_CHARACTERS
        }
        (AlgorithmParameters::EllipticCurve(ec), TokenAlgorithm::ES256) => {
            ec.curve == EllipticCurve::P256
        }
        (AlgorithmParameters::OctetKeyPair(pair), TokenAlgorithm::EdDSA) => {
            pair.curve == EllipticCurve::Ed25519
        }
        _ => false,
    };
    let for_signatures = matches!(
        key.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    let for_verifying = key
        .common
        .key_operations
        .as_ref()
        .is_none_or(|all| all.contains(&KeyOperations::Verify));
    let same_algorithm = key
        .common
        .key_algorithm
        .as_ref()
        .is_none_or(|named| named.to_string() == algorithm.name());
    right_kind && for_signatures && for_verifying && same_algorithm
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The public key of RFC 8037, appendix A.2, under these ids.
    fn document(ids: &[&str]) -> Value {
        let key = |id: &&str| json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": id });
        json!({ "keys": ids.iter().map(key).collect::<Vec<_>>() })
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn an_unknown_key_makes_the_set_be_read_but_not_too_often() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: String| std::fs::write(file.path(), text).unwrap();
        let settings = AuthSettings {
            algorithm: TokenAlgorithm::EdDSA,
            jwks_file: Some(file.path().into()),
            ..AuthSettings::default()
        };
        let source = KeySource::new(&settings).unwrap();
        source
            .find(Some("a"), soon())
            .await
            .expect_err("there is no set yet");
        write(document(&["a"]).to_string());
        source
            .find(Some("a"), soon())
            .await
            .expect_err("it was asked a moment ago");

        let later = async || *source.asked.lock().await = Instant::now().checked_sub(MIN_INTERVAL);
        later().await;
        assert!(source.find(Some("a"), soon()).await.unwrap().is_some());
        assert_eq!(source.failure(), None);

        write(document(&["b"]).to_string());
        assert!(
            source.find(Some("b"), soon()).await.unwrap().is_none(),
            "too soon"
        );
        later().await;
        assert!(source.find(Some("b"), soon()).await.unwrap().is_some());
        assert!(
            source.find(Some("a"), soon()).await.unwrap().is_none(),
            "a key that was withdrawn is not accepted"
        );

        for broken in [
            "",
            "[]",
            "{}",
            r#"{"keys":[]}"#,
            &document(&["c", "c"]).to_string(),
            &document(&["c"; 101]).to_string(),
            &" ".repeat(MAX_BYTES + 1),
        ] {
            write(broken.to_owned());
            source
                .refresh()
                .await
                .expect_err(broken.get(..20).unwrap_or(broken));
            assert!(
                source.find(Some("b"), soon()).await.unwrap().is_some(),
                "the last good set stays"
            );
        }
        std::fs::remove_file(file.path()).unwrap();
        source.refresh().await.unwrap_err();
        assert!(
            source.failure().unwrap().contains("auth.jwks_file"),
            "{:?}",
            source.failure()
        );
    }

    #[tokio::test]
    async fn a_key_is_withdrawn_by_its_material_not_by_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: String| std::fs::write(file.path(), text).unwrap();
        let settings = AuthSettings {
            algorithm: TokenAlgorithm::EdDSA,
            jwks_file: Some(file.path().into()),
            ..AuthSettings::default()
        };
        let source = KeySource::new(&settings).unwrap();
        write(document(&["a"]).to_string());
        source.refresh().await.unwrap();
        let key = source.find(Some("a"), soon()).await.unwrap().unwrap().id;
        write(document(&["renamed"]).to_string());
        source.refresh().await.unwrap();
        assert!(source.has(key), "it is the same key");
        let other = document(&["a"]).to_string().replace("11qYAYKx", "11qYAYKy");
        write(other);
        source.refresh().await.unwrap();
        assert!(!source.has(key), "another key has its name");
    }

    #[test]
    fn a_token_without_a_key_id_is_only_clear_when_there_is_one_key() {
        let parse = |document: Value| {
            KeySet::parse(document.to_string().as_bytes(), TokenAlgorithm::EdDSA).unwrap()
        };
        assert!(parse(document(&["a"])).find(None).is_some());
        assert!(parse(document(&["a", "b"])).find(None).is_none());
    }
}
