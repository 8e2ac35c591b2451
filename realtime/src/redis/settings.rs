//! The configuration's section `redis`.

use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::settings::{DatabaseUrl, Span, size};
use serde::{Deserialize, Serialize};

/// Longest `redis.prefix`.
const PREFIX_MAX_BYTES: usize = 64;

/// The Redis that a deployment's nodes share: one server of Redis 6 or later, or a compatible one, without TLS. A program
/// that can reach it can forge events, so its network has to be private.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisSettings {
    /// `redis://user:password@host:port/database`. Unset for a deployment of one node, which needs no Redis. `rediss` (TLS) is
    /// not supported.
    pub url: Option<DatabaseUrl>,
    /// The first part of all names, so that several deployments can share a Redis: letters, digits, `-`, `_` and `.`.
    pub prefix: String,
    /// How many of a conversation's latest changes are kept for clients that reconnect; 0 for none. At most 10,000. The list
    /// is trimmed when it is an eighth longer.
    pub window_messages: usize,
    /// How long the changes are kept after the latest of them. 1 s to 1 h.
    pub window_age: Span,
    /// Most pushes that wait to be published; beyond, they are dropped. 1 to 1,000,000.
    pub queue_pushes: usize,
    /// Most bytes that wait to be published; beyond, they are dropped. 1 MiB to 4 GiB.
    #[serde(with = "size")]
    pub queue_bytes: usize,
    /// Longest wait for Redis to accept a connection or to answer, and longest wait of a push for Redis to come back. 100 ms
    /// to 1 min.
    pub timeout: Span,
    /// How often a node proves that it receives pushes. After five times as long without a proof it replaces all
    /// connections. 100 ms to 1 min.
    pub canary_interval: Span,
    /// How long after a node's last sign of life its users go offline. 3 s to 10 min.
    pub lease: Span,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            url: None,
            prefix: "backscroll".to_owned(),
            window_messages: 500,
            window_age: Span::secs(300),
            queue_pushes: 65_536,
            queue_bytes: 64 << 20,
            timeout: Span::secs(2),
            canary_interval: Span::secs(2),
            lease: Span::secs(15),
        }
    }
}

impl RedisSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("redis");
        if let Some(url) = &self.url
            && let Err(problem) = super::line::client(url)
        {
            check.report("url", problem.to_string());
        }
        let names = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        check.require(
            "prefix",
            (1..=PREFIX_MAX_BYTES).contains(&self.prefix.len()) && self.prefix.bytes().all(names),
            format!("is not 1 to {PREFIX_MAX_BYTES} letters, digits, `-`, `_` and `.`"),
        );
        check.within("window_messages", self.window_messages, 0, 10_000);
        check.within("queue_pushes", self.queue_pushes, 1, 1_000_000);
        check.within("queue_bytes", self.queue_bytes, 1 << 20, 4 << 30);
        check.within(
            "window_age",
            self.window_age,
            Span::millis(1000),
            Span::millis(3_600_000),
        );
        check.within(
            "timeout",
            self.timeout,
            Span::millis(100),
            Span::millis(60_000),
        );
        check.within(
            "canary_interval",
            self.canary_interval,
            Span::millis(100),
            Span::millis(60_000),
        );
        check.within(
            "lease",
            self.lease,
            Span::millis(3000),
            Span::millis(600_000),
        );
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::settings::check::lines;

    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert_eq!(RedisSettings::default().check(), []);
        let wrong = RedisSettings {
            prefix: "{a}".to_owned(),
            queue_pushes: 0,
            lease: Span::secs(1),
            ..RedisSettings::default()
        };
        assert_eq!(
            lines(&wrong.check()),
            [
                "redis.prefix: is not 1 to 64 letters, digits, `-`, `_` and `.`",
                "redis.queue_pushes: 0 is not between 1 and 1000000",
                "redis.lease: 1s is not between 3s and 10m"
            ]
        );
    }

    #[test]
    fn addresses_are_checked_without_showing_a_password() {
        let check = |url: &str| {
            let settings = RedisSettings {
                url: Some(DatabaseUrl(url.to_owned())),
                ..RedisSettings::default()
            };
            assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
            settings.check()
        };
        for right in [
            "redis://10.0.0.1",
            "redis://:secret@cache:6380/3",
            "redis://user:secret@[::1]:6379/",
        ] {
            assert_eq!(check(right), [], "{right}");
        }
        for wrong in [
            "",
            "cache:6379",
            "rediss://:secret@cache",
            "unix:///run/redis?pass=x",
            "redis://cache/one",
        ] {
            assert_eq!(check(wrong).len(), 1, "{wrong}");
        }
    }
}
