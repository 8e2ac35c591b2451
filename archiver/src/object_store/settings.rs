//! The configuration's section `object_store`. Every bound of INV-BOUND here has its name in it.

use std::fmt;
use std::path::PathBuf;

use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::settings::{Span, size};
use serde::{Deserialize, Serialize, Serializer};

/// Smallest part of an upload that S3 takes, except as the last.
const S3_PART_MIN: usize = 5 << 20;

/// Where objects are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In a folder of this machine: for one node.
    #[default]
    Disk,
    /// In a bucket of S3 or of a store with its protocol.
    S3,
}

/// When the S3 client adds checksums to requests and checks those of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumMode {
    /// Wherever the protocol has them.
    #[default]
    WhenSupported,
    /// Only where it demands them: for stores that refuse the newer checksums.
    WhenRequired,
}

/// A secret that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Where objects are kept, and the bounds on asking for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectStoreSettings {
    /// `disk` (the default) or `s3`.
    pub kind: StoreKind,
    /// Disk: the folder.
    pub path: PathBuf,
    /// S3: the bucket.
    pub bucket: String,
    /// S3: its region. Stores that have none take any.
    pub region: String,
    /// S3: the address of a store that is not Amazon's, as `https://objects.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The address for clients. S3: when they reach the store by another one than this process. Disk: that of this server, as
    /// `https://chat.example.com`; without it, clients are given paths on the server that they ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
    /// S3: name the bucket in the path instead of in the host name, as most stores that are not Amazon's need it.
    pub path_style: bool,
    /// S3: `when_supported`, or `when_required` for stores that refuse the newer checksums.
    pub checksum: ChecksumMode,
    /// S3: let the store refuse to overwrite (`If-None-Match`). Off for stores that do not know it, as Garage: a look
    /// whether the key is free then comes before each object, one request more.
    pub conditional_put: bool,
    /// S3: credentials. Without them: the environment, the shared profile, web identity, container or machine role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// S3: the secret that belongs to `access_key_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// S3: the token that temporary credentials come with. It ends with them: a role or web identity renews its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// Most requests under way at once, 1 to 4,096; sixteen times as many may wait.
    pub max_requests: usize,
    /// How long one request may take, besides the time for its bytes; and the longest wait for its turn. Up to 5 minutes.
    pub request_timeout: Span,
    /// Bytes a second, at least 1,024: a request of this many has one second more.
    #[serde(with = "size")]
    pub min_throughput: u64,
    /// How often a request is made in all when it fails in passing, 1 to 10.
    pub max_attempts: u32,
    /// Bytes of a part of an upload, held in memory: 5 MiB to 1 GiB.
    #[serde(with = "size")]
    pub part_size: usize,
}

impl Default for ObjectStoreSettings {
    fn default() -> Self {
        Self {
            kind: StoreKind::Disk,
            path: PathBuf::from("backscroll-data/objects"),
            bucket: String::new(),
            region: "us-east-1".into(),
            endpoint: None,
            public_endpoint: None,
            path_style: false,
            checksum: ChecksumMode::WhenSupported,
            conditional_put: true,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            max_requests: 64,
            request_timeout: Span::secs(5),
            min_throughput: 1 << 20,
            max_attempts: 4,
            part_size: 8 << 20,
        }
    }
}

impl ObjectStoreSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("object_store");
        match self.kind {
            StoreKind::Disk if self.path.as_os_str().is_empty() => {
                check.report("path", "is empty; name a folder");
            }
            StoreKind::Disk => {}
            StoreKind::S3 => self.check_s3(&mut check),
        }
        for (key, address) in [
            ("endpoint", &self.endpoint),
            ("public_endpoint", &self.public_endpoint),
        ] {
            if address.as_ref().is_some_and(|address| !is_address(address)) {
                check.report(key, "is not an address as https://objects.example.com");
            }
        }
        check.within("max_requests", self.max_requests as u64, 1, 4096);
        check.within("min_throughput", self.min_throughput, 1024, 1 << 40);
        check.within("max_attempts", self.max_attempts, 1, 10);
        check.within(
            "part_size",
            self.part_size as u64,
            S3_PART_MIN as u64,
            1 << 30,
        );
        check.within(
            "request_timeout",
            self.request_timeout,
            Span::millis(100),
            Span::secs(300),
        );
        check.finish()
    }

    fn check_s3(&self, check: &mut Check) {
        let bucket_fits = (3..=63).contains(&self.bucket.len())
            && self
                .bucket
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
        if !bucket_fits {
            check.report(
                "bucket",
                "is no bucket's name; it has 3 to 63 of a-z 0-9 . -",
            );
        }
        if self.region.is_empty() {
            check.report(
                "region",
                "is empty; where the store has none, write \"us-east-1\"",
            );
        }
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => check.report("secret_access_key", "is missing beside access_key_id"),
            (None, Some(_)) => check.report("access_key_id", "is missing beside secret_access_key"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if self.session_token.is_some() && self.access_key_id.is_none() {
            check.report(
                "session_token",
                "belongs to access_key_id and secret_access_key, which are missing",
            );
        }
    }
}

/// Whether `text` is `http` or `https`, a host and perhaps a port, and no more than a slash after them.
pub(crate) fn is_address(text: &str) -> bool {
    let Some(rest) = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
    else {
        return false;
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    !host.is_empty() && !host.contains(['/', '?', '#', '@']) && !host.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3() -> ObjectStoreSettings {
        ObjectStoreSettings {
            kind: StoreKind::S3,
            bucket: "chat-archive".into(),
            ..ObjectStoreSettings::default()
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        assert_eq!(ObjectStoreSettings::default().check(), []);
        assert_eq!(s3().check(), []);
        let wrong = ObjectStoreSettings {
            bucket: "No".into(),
            region: String::new(),
            endpoint: Some("objects.example.com".into()),
            public_endpoint: Some("https://a/b".into()),
            access_key_id: Some("id".into()),
            max_requests: 0,
            request_timeout: Span::secs(3600),
            min_throughput: 1,
            max_attempts: 0,
            part_size: 1,
            ..s3()
        };
        let problems = wrong.check();
        let mut keys: Vec<&str> = problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        keys.sort_unstable();
        let named = [
            "bucket",
            "endpoint",
            "max_attempts",
            "max_requests",
            "min_throughput",
            "part_size",
            "public_endpoint",
        ];
        let expected: Vec<String> = named
            .iter()
            .chain(&["region", "request_timeout", "secret_access_key"])
            .map(|key| format!("object_store.{key}"))
            .collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn addresses() {
        for good in [
            "https://objects.example.com",
            "http://127.0.0.1:9000",
            "http://[::1]:9000/",
        ] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "ftp://a",
            "https://a/b",
            "https://u@a",
            "https://a b",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown_and_unknown_keys_refused() {
        let text = r#"{"kind": "s3", "bucket": "b-1", "checksum": "when_required", "secret_access_key": "hush"}"#;
        let settings: ObjectStoreSettings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.secret_access_key.as_ref().unwrap().0, "hush");
        assert_eq!(settings.checksum, ChecksumMode::WhenRequired);
        assert!(
            !format!("{settings:?}").contains("hush")
                && !serde_json::to_string(&settings).unwrap().contains("hush")
        );
        assert!(serde_json::from_str::<ObjectStoreSettings>(r#"{"buckets": "x"}"#).is_err());
    }
}
