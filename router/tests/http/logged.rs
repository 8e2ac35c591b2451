//! What is logged as a warning, for tests that cause it.

/// A request took long, which any does on a busy machine.
pub(crate) const SLOW: &str = "slow request";
/// A request was answered with 5xx.
pub(crate) const NOT_SERVED: &str = "request could not be served";
/// The issuer of tokens does not give its keys.
pub(crate) const KEYS_AWAY: &str = "the issuer's keys could not be read";
/// The service stopped before clients had sent their requests.
pub(crate) const CUT_OFF: &str = "requests did not finish in time and were cut off";
/// A database cannot be opened: when the service starts, in `/readyz`, and for a request.
pub(crate) const DATABASE_AWAY: [&str; 3] = [
    "cannot be reached; going on without it",
    "a dependency is away",
    "the shard's database cannot do it now",
];
