//! The HTTP side of the configuration: section `server`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::settings::{Span, size};
use serde::{Deserialize, Serialize};

use super::listen::ListenAddress;

/// How the service listens and what it takes on. Every bound here is answered with a problem document when it is
/// reached, and counted (INV-BOUND).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Host and port.
    pub listen: ListenAddress,
    /// Largest request body; beyond, 413.
    #[serde(with = "size")]
    pub max_body: usize,
    /// Largest request line and headers; beyond, 431. At least 8 KiB.
    #[serde(with = "size")]
    pub max_header: usize,
    /// How long a connection may take to send a request's headers, and how long it may be idle between requests.
    pub header_timeout: Span,
    /// How long a request may take, its body's arrival included; beyond, 408 or 504.
    pub request_timeout: Span,
    /// Most requests worked on at once; beyond, 503 `overloaded` without queueing.
    pub max_requests: usize,
    /// Most connections open at once; beyond, an idle one is closed for a new one, and without idle ones it waits.
    pub max_connections: usize,
    /// Most connections of one address; beyond, an idle one of the address is closed for a new one, and without idle ones the new
    /// one is. 0 is no limit, as behind a load balancer with one address.
    pub connections_per_ip: usize,
    /// Whether each connection begins with a header of the PROXY protocol, version 1 or 2, which tells the client's address; others are
    /// closed. Only for servers that nobody but the proxy can reach.
    pub proxy_protocol: bool,
    /// How long a client may read nothing of what it is sent; beyond, its connection is closed.
    pub write_timeout: Span,
    /// Most bytes of answers that wait on one connection for its client; beyond, 503 `overloaded`.
    #[serde(with = "size")]
    pub unread_connection_bytes: usize,
    /// The same for all connections together.
    #[serde(with = "size")]
    pub unread_bytes: usize,
    /// How long a shutdown goes on accepting while `/readyz` already says no, so that load balancers can notice.
    pub shutdown_delay: Span,
    /// How long requests in flight may take to finish when shutting down.
    pub shutdown_timeout: Span,
    /// Origins that browsers may call from, as `https://chat.example.com`; `*` is any; none by default.
    pub cors_origins: Vec<String>,
    /// Request headers that browsers may send besides those of the interface, such as `traceparent`; `*` is any.
    pub cors_headers: Vec<String>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)).into(),
            max_body: 64 * 1024,
            max_header: 16 * 1024,
            header_timeout: Span::secs(75),
            request_timeout: Span::secs(10),
            max_requests: 4096,
            max_connections: 16_384,
            connections_per_ip: 0,
            proxy_protocol: false,
            write_timeout: Span::secs(30),
            unread_connection_bytes: 4 << 20,
            unread_bytes: 256 << 20,
            shutdown_delay: Span::secs(0),
            shutdown_timeout: Span::secs(25),
            cors_origins: Vec::new(),
            cors_headers: Vec::new(),
        }
    }
}

impl ServerSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("server");
        check.require("max_body", self.max_body >= 1024, "at least 1 KiB");
        check.require(
            "max_body",
            self.max_body <= 64 << 20,
            "at most 64 MiB; media do not go through request bodies",
        );
        check.require(
            "max_header",
            (8192..=1 << 20).contains(&self.max_header),
            "from 8 KiB to 1 MiB",
        );
        check.require("max_requests", self.max_requests >= 1, "at least 1");
        check.require("max_connections", self.max_connections >= 1, "at least 1");
        let longest = Duration::from_secs(3600);
        check.require(
            "unread_connection_bytes",
            self.unread_connection_bytes >= 64 << 10,
            "at least 64 KiB",
        );
        check.require(
            "unread_bytes",
            self.unread_bytes >= self.unread_connection_bytes,
            "not below unread_connection_bytes",
        );
        for (name, span) in [
            ("write_timeout", self.write_timeout),
            ("header_timeout", self.header_timeout),
            ("request_timeout", self.request_timeout),
            ("shutdown_timeout", self.shutdown_timeout),
        ] {
            let in_range = span.0 >= Duration::from_millis(100) && span.0 <= longest;
            check.require(name, in_range, "from 100ms to 1h");
        }
        check.require(
            "shutdown_delay",
            self.shutdown_delay.0 <= longest,
            "at most 1h",
        );
        for origin in &self.cors_origins {
            if let Err(why) = check_origin(origin) {
                check.require(
                    "cors_origins",
                    false,
                    format!("`{}` {why}", origin.escape_debug()),
                );
            }
        }
        let any_and_more = self.cors_origins.len() > 1 && self.allows_any_origin();
        check.require("cors_origins", !any_and_more, "`*` stands alone");
        for name in &self.cors_headers {
            let is_name = HeaderName::from_bytes(name.as_bytes()).is_ok();
            let problem = || format!("`{}` is not the name of a header", name.escape_debug());
            check.require("cors_headers", is_name, problem());
        }
        let any_and_more = self.cors_headers.len() > 1 && self.allows_any_header();
        check.require("cors_headers", !any_and_more, "`*` stands alone");
        check.finish()
    }

    /// Whether every request header is allowed.
    #[must_use]
    pub fn allows_any_header(&self) -> bool {
        self.cors_headers.iter().any(|name| name == "*")
    }

    /// Whether every origin is allowed.
    #[must_use]
    pub fn allows_any_origin(&self) -> bool {
        self.cors_origins.iter().any(|origin| origin == "*")
    }
}

/// A browser's `Origin` is compared as text, so `https://a.example/` or an upper-case host would never match.
fn check_origin(origin: &str) -> Result<(), &'static str> {
    if origin == "*" || origin == "null" {
        return Ok(());
    }
    let example =
        "is not an origin; write scheme, host and port only, as https://chat.example.com:8443";
    let url = reqwest::Url::parse(origin).map_err(|_| example)?;
    let canonical = url.origin().is_tuple() && url.origin().ascii_serialization() == origin;
    if !canonical || HeaderValue::from_str(origin).is_err() {
        return Err(example);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(ServerSettings::default().check(), []);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let settings = ServerSettings {
            max_body: 1,
            max_header: 1,
            max_requests: 0,
            max_connections: 0,
            request_timeout: Span::millis(1),
            cors_origins: vec![
                "*".into(),
                "https://a.example/".into(),
                "a.example".into(),
                "https://A.example".into(),
            ],
            cors_headers: vec!["*".into(), "two words".into()],
            ..ServerSettings::default()
        };
        let problems = settings.check();
        assert_eq!(problems.len(), 11, "{problems:#?}");
        assert!(problems.iter().all(|p| p.key.starts_with("server.")));
    }

    #[test]
    fn origins_are_compared_as_browsers_write_them() {
        for right in [
            "*",
            "null",
            "https://chat.example.com",
            "http://localhost:3000",
            "https://[::1]:8443",
        ] {
            assert_eq!(check_origin(right), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "https://a.example:443",
            "https://a.example/x",
            "ftp:/a",
            "file:///a",
            "https://u@a.example",
            "https://*.example.com\n",
        ] {
            assert!(check_origin(wrong).is_err(), "{wrong}");
        }
    }
}
