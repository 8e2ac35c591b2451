//! What the service around the gateway provides: it knows tokens and error codes, the gateway does not.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backscroll_shard::error::Error;
use backscroll_shard::ids::UserId;

use crate::metrics;
use crate::protocol::{Close, Failure};

/// How long a client has to present a token, and how long checking the token may take.
pub const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(10);

/// The user that a valid token names.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// When the token was issued, in seconds since 1970, if it says so.
    pub issued_at: Option<u64>,
    /// When the token expires, in seconds since 1970.
    pub expires_at: u64,
    /// Which of the issuer's keys the token was signed with; none where there is only one, which does not change.
    pub key: Option<NonZeroU64>,
}

/// The service that the gateway is part of.
#[async_trait]
pub trait Edge: Send + Sync {
    /// Checks `token`. It asks no database, so that a wave of reconnects is no wave of queries.
    ///
    /// # Errors
    /// Why the token is not accepted, and the code with which the connection is closed.
    async fn authenticate(
        &self,
        token: &str,
        deadline: Instant,
    ) -> Result<Identity, (Close, Failure)>;

    /// Whether tokens that were signed with `key` are still accepted, so that a session ends when its issuer withdraws the key.
    fn trusts(&self, key: NonZeroU64) -> bool;

    /// The part of an error that a client may know.
    fn failure(&self, error: Error) -> Failure;
}

/// Checks `token` within [`AUTHENTICATE_WITHIN`] and counts refusals in [`metrics::REFUSED`].
///
/// # Errors
/// As [`Edge::authenticate`].
pub(crate) async fn authenticate(
    edge: &Arc<dyn Edge>,
    token: &str,
) -> Result<Identity, (Close, Failure)> {
    let deadline = Instant::now() + AUTHENTICATE_WITHIN;
    let outcome = edge.authenticate(token, deadline).await;
    if let Err((_, failure)) = &outcome {
        metrics::REFUSED.with([failure.code]).increment(1);
    }
    outcome
}
