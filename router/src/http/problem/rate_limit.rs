//! The headers of a refusal by a rate limit (draft-ietf-httpapi-ratelimit-headers), beside `Retry-After`.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use backscroll_shard::guard::Refusal;

/// What the rule allows: so many at once, in so many seconds.
pub(in crate::http) const RATE_LIMIT_POLICY: HeaderName =
    HeaderName::from_static("ratelimit-policy");
/// What is left of it, and after how many seconds there is more.
pub(in crate::http) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// After how many milliseconds the refused request may succeed.
pub(super) fn retry_after_ms(refusal: &Refusal) -> u64 {
    in_units(refusal.retry_after, Duration::from_millis(1))
}

/// Writes the headers.
pub(super) fn write(refusal: &Refusal, headers: &mut HeaderMap) {
    let (rule, rate) = (refusal.rule.name(), refusal.rate);
    let second = Duration::from_secs(1);
    let (at_once, window) = (rate.burst(), in_units(rate.window(), second));
    let wait = in_units(refusal.retry_after, second);
    for (name, text) in [
        (
            RATE_LIMIT_POLICY,
            format!("\"{rule}\";q={at_once};w={window}"),
        ),
        (RATE_LIMIT, format!("\"{rule}\";r=0;t={wait}")),
    ] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// A part of a unit counts as a whole one.
fn in_units(time: Duration, unit: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(unit.as_nanos())).unwrap_or(u64::MAX)
}
