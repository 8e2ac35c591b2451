//! The signed addresses of a folder: an HMAC-SHA256 over the method, the key and the query.
//!
//! ```text
//! /media/objects/<key>?expires=<seconds since 1970>&…&signature=<64 hexadecimal digits>
//! ```
//!
//! The signature is the last parameter and covers the query before it byte by byte, so there is one spelling of an address.
//! The secret lies in the store's folder (`.secret`, readable by its owner only), so that servers which share the folder
//! accept each other's addresses, and addresses survive a restart. Who can read the folder can read every object anyway.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::super::Upload;
use super::super::key::ObjectKey;
use super::refusal::Refusal;

/// The path below which objects are served.
pub const PATH: &str = "/media/objects/";
/// Bytes of the secret.
pub(super) const SECRET_BYTES: usize = 32;

const SIGNATURE: &str = "&signature=";

/// What an address is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To create or replace an object of this size and type.
    Put {
        key: ObjectKey,
        bytes: u64,
        content_type: String,
    },
    /// To write a part of this size.
    Part {
        upload: Upload,
        number: u32,
        bytes: u64,
    },
    /// To read an object, answered with this type and disposition.
    Get {
        key: ObjectKey,
        content_type: String,
        disposition: String,
    },
}

impl Purpose {
    fn method(&self) -> &'static str {
        match self {
            Self::Put { .. } | Self::Part { .. } => "PUT",
            Self::Get { .. } => "GET",
        }
    }

    fn key(&self) -> &ObjectKey {
        match self {
            Self::Put { key, .. } | Self::Get { key, .. } => key,
            Self::Part { upload, .. } => &upload.key,
        }
    }

    fn query(&self) -> String {
        let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        match self {
            Self::Put {
                bytes,
                content_type,
                ..
            } => format!("bytes={bytes}&type={}", escape(content_type)),
            Self::Part {
                upload,
                number,
                bytes,
            } => format!("bytes={bytes}&upload={}&part={number}", escape(&upload.id)),
            Self::Get {
                content_type,
                disposition,
                ..
            } => format!(
                "type={}&disposition={}",
                escape(content_type),
                escape(disposition)
            ),
        }
    }
}

/// Signs addresses and checks them.
#[derive(Debug)]
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The path and query of an address for `purpose`.
    pub(super) fn sign(&self, purpose: &Purpose, valid_for: Duration) -> String {
        let expires = seconds_since_epoch().saturating_add(valid_for.as_secs());
        let query = format!("expires={expires}&{}", purpose.query());
        let key = purpose.key();
        let tag = hmac::sign(
            &self.0,
            text(purpose.method(), key.as_str(), &query).as_bytes(),
        );
        format!("{PATH}{key}?{query}{SIGNATURE}{}", hex(tag.as_ref()))
    }

    /// What an address is good for with this method.
    pub(super) fn check(&self, method: &str, path: &str, query: &str) -> Result<Purpose, Refusal> {
        let key = path.strip_prefix(PATH).ok_or(Refusal::Signature)?;
        let (query, signature) = query.rsplit_once(SIGNATURE).ok_or(Refusal::Signature)?;
        let signature = unhex(signature).ok_or(Refusal::Signature)?;
        // What may be read may be asked about.
        let method = if method == "HEAD" { "GET" } else { method };
        hmac::verify(&self.0, text(method, key, query).as_bytes(), &signature)
            .map_err(|_| Refusal::Signature)?;
        let given = Given::parse(query).ok_or(Refusal::Signature)?;
        if given.number("expires").ok_or(Refusal::Signature)? < seconds_since_epoch() {
            return Err(Refusal::Expired);
        }
        given.purpose(method, key).ok_or(Refusal::Signature)
    }
}

/// The parameters of an address.
struct Given(HashMap<String, String>);

impl Given {
    fn parse(query: &str) -> Option<Self> {
        let pairs = query.split('&').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value).decode_utf8().ok()?;
            Some((name.to_owned(), value.into_owned()))
        });
        pairs.collect::<Option<_>>().map(Self)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.parse().ok()
    }

    fn purpose(&self, method: &str, key: &str) -> Option<Purpose> {
        let key = ObjectKey::new(key).ok()?;
        Some(match (method, self.text("upload")) {
            ("GET", _) => Purpose::Get {
                key,
                content_type: self.text("type")?,
                disposition: self.text("disposition")?,
            },
            (_, Some(id)) => Purpose::Part {
                upload: Upload { key, id },
                number: self.number("part")?.try_into().ok()?,
                bytes: self.number("bytes")?,
            },
            (_, None) => Purpose::Put {
                key,
                bytes: self.number("bytes")?,
                content_type: self.text("type")?,
            },
        })
    }
}

fn text(method: &str, key: &str, query: &str) -> String {
    format!("{method}\n{key}?{query}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let canonical = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 64 || !digits.iter().all(canonical) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn get() -> Purpose {
        Purpose::Get {
            key: ObjectKey::new("media/ab/cd").unwrap(),
            content_type: "image/png".into(),
            disposition: "inline; filename=\"a&b=c.png\"".into(),
        }
    }

    fn check(signer: &Signer, method: &str, address: &str) -> Result<Purpose, Refusal> {
        let (path, query) = address.split_once('?').unwrap();
        signer.check(method, path, query)
    }

    #[test]
    fn an_address_is_good_for_what_it_was_signed_for() {
        let signer = Signer::new(b"secret");
        let upload = Upload {
            key: ObjectKey::new("upload/x").unwrap(),
            id: "0f".into(),
        };
        let part = Purpose::Part {
            upload,
            number: 3,
            bytes: 5 << 20,
        };
        let put = Purpose::Put {
            key: ObjectKey::new("upload/y").unwrap(),
            bytes: 7,
            content_type: "text/plain; charset=utf-8".into(),
        };
        for (purpose, method) in [(get(), "GET"), (get(), "HEAD"), (put, "PUT"), (part, "PUT")] {
            let address = signer.sign(&purpose, HOUR);
            assert_eq!(check(&signer, method, &address).unwrap(), purpose);
        }
    }

    #[test]
    fn altered_and_expired_addresses_are_refused() {
        let signer = Signer::new(b"secret");
        let address = signer.sign(&get(), HOUR);
        let refused = |method: &str, address: &str| check(&signer, method, address).unwrap_err();
        assert_eq!(refused("PUT", &address), Refusal::Signature);
        for (old, new) in [
            ("media/ab/cd", "media/ab/ce"),
            ("image", "text"),
            ("expires=", "expires=9"),
            ("&signature=", "&x=y&signature="),
            ("&signature=", "&signature=0"),
        ] {
            let altered = address.replacen(old, new, 1);
            assert_ne!(altered, address);
            assert_eq!(refused("GET", &altered), Refusal::Signature, "{altered}");
        }
        let another = Signer::new(b"another").sign(&get(), HOUR);
        assert_eq!(refused("GET", &another), Refusal::Signature);
        // Every bit of the signature counts.
        for at in address.len() - 64..address.len() {
            let mut altered = address.clone().into_bytes();
            altered[at] = if altered[at] == b'0' { b'1' } else { b'0' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(refused("GET", &altered), Refusal::Signature);
        }
        let expires = seconds_since_epoch() - 1;
        let query = format!("expires={expires}&type=a&disposition=b");
        let tag = hmac::sign(&signer.0, text("GET", "media/ab/cd", &query).as_bytes());
        let expired = format!("{PATH}media/ab/cd?{query}{SIGNATURE}{}", hex(tag.as_ref()));
        assert_eq!(refused("GET", &expired), Refusal::Expired);
    }
}
