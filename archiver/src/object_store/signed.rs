//! Requests that clients make to the object store by themselves, each signed for one purpose and a limited time.

use serde::Serialize;

/// A request to put an object or a part of one. The client sends it as it is, with the bytes as its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignedRequest {
    /// The HTTP method: `PUT`.
    pub method: &'static str,
    /// The address. With the disk store and no `object_store.public_endpoint` it is a path on this server.
    pub url: String,
    /// Headers that the signature covers, which must be sent with exactly these values.
    pub headers: Vec<SignedHeader>,
}

/// A header that must be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignedHeader {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl SignedHeader {
    pub(super) fn new(name: &str, value: &impl ToString) -> Self {
        Self {
            name: name.to_ascii_lowercase(),
            value: value.to_string(),
        }
    }
}

/// What an object is created with.
#[derive(Clone, Copy, Debug)]
pub struct SignedContent<'a> {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its `Content-Type`.
    pub content_type: &'a str,
}

/// How an object is answered to its readers.
#[derive(Clone, Copy, Debug)]
pub struct SignedAnswer<'a> {
    /// The `Content-Type`.
    pub content_type: &'a str,
    /// The `Content-Disposition`.
    pub disposition: &'a str,
}
