//! Calls of an import are repeated while a shard does not answer.

use std::time::{Duration, Instant};

use backscroll_shard::error::{Error, Result as StoreResult};

use crate::cli::BadInput;

/// How long an import goes on trying while a shard does not answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls until it succeeds, fails for good, or the patience is at an end. Both calls of an import can be repeated.
pub(super) async fn patiently<T, F: Future<Output = StoreResult<T>>>(
    call: impl Fn() -> F,
) -> anyhow::Result<T> {
    let give_up_at = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error)
                if error.is_retryable()
                    && !matches!(error, Error::Closing)
                    && Instant::now() + pause < give_up_at =>
            {
                tracing::warn!(%error, "trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) if error.is_retryable() => {
                return Err(anyhow::Error::new(error)
                    .context("gave up; run the same command again, it goes on where it stopped"));
            }
            Err(error @ (Error::Invalid(_) | Error::Conflict(_))) => {
                return Err(BadInput(error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
