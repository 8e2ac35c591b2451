//! Addresses of files at a content delivery network (CDN) that reads the object store and checks our signature.
//!
//! ```text
//! <media.cdn>/media/<xx>/<32 digits>?type=<t>&disposition=<d>&expires=<seconds since 1970>&signature=<s>
//! ```
//!
//! - `s` is the HMAC-SHA256 under the bytes of `media.cdn_secret` of everything from the first `/` after the host up to, but without,
//!   `&signature=`, byte by byte as it stands in the address; 64 hexadecimal digits in lower case. It is the last parameter.
//! - The CDN answers 403 if the signature is another one, or the time is later than `expires`; otherwise the object under the key that is
//!   the path without its first `/`, with `type` as `Content-Type` and `disposition` as `Content-Disposition` (both percent-encoded), and
//!   `X-Content-Type-Options: nosniff`; ranges too. It may cache an object by the path alone, because an object never changes. It must not
//!   keep it for longer than `archive.erase_within`, or an erased file stays there (INV-ERASE).
//! - `type` and `disposition` are chosen here and signed, so that nothing is shown that could run.
//! - An address tells the file's name, type and random key: no user, conversation or shard. It is valid for `media.address_valid`, for
//!   everybody who has it.
//! - A new secret: the CDN accepts both until `media.address_valid` has passed since all servers have the new one.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::settings::MediaSettings;
use crate::object_store::{ObjectKey, SignedAnswer};

/// Signs addresses of files at a CDN.
#[derive(Clone, Debug)]
pub struct Cdn {
    base: String,
    key: hmac::Key,
}

impl Cdn {
    /// The CDN of the settings; `None` where clients read from the object store itself.
    #[must_use]
    pub fn of(settings: &MediaSettings) -> Option<Self> {
        let (base, secret) = (settings.cdn.as_ref()?, settings.cdn_secret.as_ref()?);
        Some(Self {
            base: base.trim_end_matches('/').to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes()),
        })
    }

    /// The address at which everybody may read the object until `valid_for` has passed.
    #[must_use]
    pub fn address(
        &self,
        key: &ObjectKey,
        answer: &SignedAnswer<'_>,
        valid_for: Duration,
    ) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.address_until(key, answer, now.saturating_add(valid_for).as_secs())
    }

    /// `expires` in seconds since 1970.
    fn address_until(&self, key: &ObjectKey, answer: &SignedAnswer<'_>, expires: u64) -> String {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let signed = format!(
            "/{key}?type={}&disposition={}&expires={expires}",
            escape(answer.content_type),
            escape(answer.disposition)
        );
        let tag = hmac::sign(&self.key, signed.as_bytes());
        let digits = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
        let signature: String = digits.collect();
        format!("{}{signed}&signature={signature}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its signature is of `openssl dgst -sha256 -hmac`. The router's tests have a CDN that checks addresses.
    #[test]
    fn an_address_is_signed_as_described() {
        let settings = |base: &str| MediaSettings {
            cdn: Some(base.into()),
            cdn_secret: Some(
                serde_json::from_value("0123456789abcdef0123456789abcdef".into()).unwrap(),
            ),
            ..MediaSettings::default()
        };
        let key = ObjectKey::new("media/4f/4f0c2a7be1934d5c8e6fa01b2c3d4e5f").unwrap();
        let answer = SignedAnswer {
            content_type: "image/png",
            disposition: "inline; filename*=UTF-8''Gr%C3%BC%C3%9Fe.png",
        };
        for base in ["https://cdn.example", "https://cdn.example/"] {
            let cdn = Cdn::of(&settings(base)).unwrap();
            assert_eq!(
                cdn.address_until(&key, &answer, 1_800_000_000),
                "https://cdn.example/media/4f/4f0c2a7be1934d5c8e6fa01b2c3d4e5f?type=image%2Fpng\
                 &disposition=inline%3B%20filename%2A%3DUTF%2D8%27%27Gr%25C3%25BC%25C3%259Fe%2Epng&expires=1800000000\
                 &signature=5297cc9e9214d16c859d58aa3cb103622a16b02d8919523834e63a3e34598db9"
            );
            let shown = format!("{cdn:?}");
            assert!(!shown.contains("0123456789"), "{shown}");
        }
        assert!(Cdn::of(&MediaSettings::default()).is_none());
    }
}
