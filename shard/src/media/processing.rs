//! The queue of pictures of which smaller forms are to be made: their rows.
//!
//! | `process_at` | `variants` or `reason` | |
//! |---|---|---|
//! | in the future | NULL | somebody works on it until then (its lease), or it rests after a failure of something else |
//! | past | NULL | to be taken by the next that looks ([`due`]) |
//! | set | set | processed; the messages that use it are still to be told |
//! | NULL | | nothing is to be done |
//!
//! A lease is taken and judged by the clock of the shard's database; `process_at` itself is the token of its holder. A crash
//! leaves a lease that ends, and the next goes on from what the row says: what was put under the picture's keys is replaced.
//!
//! A picture that has failed, or was accepted where no forms are made, comes back into the queue with [`restart`].

use std::time::Duration;

use super::{from_row, media_columns};
use crate::db::{Connection, values};
use crate::error::Result;
use crate::ids::{ConversationId, MediaId, Seq};
use crate::model::{Media, MediaProcessed, RawJson, VariantKeys};
use crate::owned::{OwnedReader, OwnedTransaction};

/// For how long whoever takes a picture has it.
pub const LEASE: Duration = Duration::from_secs(120);

/// By the index `media_process_at`.
const DUE: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m {by media_process_at} WHERE m.process_at <= {now} AND m.state = 2 ORDER BY m.process_at LIMIT ?"
);
/// By the primary key.
const HELD: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m WHERE m.conversation_id = ? AND m.id = ? AND m.state = 2 AND m.process_at = ? {for_update}"
);
/// By the primary key.
const AGAIN_AFTER: &str =
    "UPDATE media SET process_at = {now} + ? WHERE conversation_id = ? AND id = ?";
/// By the primary key.
const PROCESSED: &str = "UPDATE media SET variants = ?, placeholder = ?, reason = ? WHERE conversation_id = ? AND id = ?";
/// By the primary key.
const RESTART: &str = "UPDATE media SET small_key = COALESCE(small_key, ?), large_key = COALESCE(large_key, ?), variants = NULL, \
     reason = NULL, process_at = {now} + ? WHERE conversation_id = ? AND id = ? AND state = 2 AND kind = 1 AND placeholder IS NULL \
     AND (process_at IS NULL OR process_at <= {now})";
/// By the index `media_refs_media`.
const USES: &str = "SELECT seq FROM media_refs {by media_refs_media} WHERE conversation_id = ? AND media_id = ? AND seq > ? \
     ORDER BY seq LIMIT ?";

/// [`LEASE`] in milliseconds.
pub(crate) fn lease_millis() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// Pictures that are to be processed by now and nobody works on, those that wait longest first.
///
/// # Errors
/// When the database fails.
pub(crate) async fn due(connection: &mut Connection, limit: usize) -> Result<Vec<Media>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = connection.fetch_all(DUE, &values![limit]).await?;
    found.iter().map(from_row).collect()
}

/// The picture as it is now, locked, if the lease that `media` has is still the one in its row.
///
/// # Errors
/// When the database fails.
pub(crate) async fn held(rows: &mut OwnedTransaction<'_>, media: &Media) -> Result<Option<Media>> {
    rows.require_conversations([media.conversation])?;
    let args = values![
        &media.conversation,
        &media.id,
        media.process_at.map(|at| at.0)
    ];
    let row = rows.fetch_optional(HELD, &args).await?;
    row.map(|row| from_row(&row)).transpose()
}

/// Another lease for a picture that the transaction has locked; with `None`, nothing is to be done with it any more.
///
/// # Errors
/// When the database fails.
pub(crate) async fn again_after(
    rows: &mut OwnedTransaction<'_>,
    (conversation, id): (ConversationId, MediaId),
    pause: Option<Duration>,
) -> Result<()> {
    let pause = pause.map(|pause| i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
    let args = values![pause, &conversation, &id];
    rows.execute(AGAIN_AFTER, &args).await.map(drop)
}

/// Puts a picture that has neither forms nor a placeholder, and that no process works on, back to the beginning of its processing,
/// with a lease for the caller. It keeps the keys that it has, so that no object of theirs is forgotten; others get `keys`. Says
/// whether it is such a picture.
///
/// # Errors
/// When the database fails.
pub(crate) async fn restart(
    rows: &mut OwnedTransaction<'_>,
    (conversation, id): (ConversationId, MediaId),
    keys: &VariantKeys,
) -> Result<bool> {
    rows.require_conversations([conversation])?;
    let args = values![
        keys.small.as_str(),
        keys.large.as_str(),
        lease_millis(),
        &conversation,
        &id
    ];
    Ok(rows.execute(RESTART, &args).await? > 0)
}

/// Puts down what came of processing a picture that the transaction has locked.
///
/// # Errors
/// When the database fails.
pub(crate) async fn finish(
    rows: &mut OwnedTransaction<'_>,
    media: &Media,
    processed: &MediaProcessed,
) -> Result<()> {
    let (variants, placeholder, reason) = match processed {
        MediaProcessed::Ready {
            placeholder,
            variants,
        } => (RawJson::of(variants), Some(placeholder.as_str()), None),
        MediaProcessed::Failed(why) => (RawJson::of(&[(); 0]), None, Some(*why)),
    };
    let args = values![
        variants.get(),
        placeholder,
        reason,
        &media.conversation,
        &media.id
    ];
    rows.execute(PROCESSED, &args).await.map(drop)
}

/// The messages after `after` that use the file, in order.
///
/// # Errors
/// When the database fails.
pub(crate) async fn uses(
    rows: &mut OwnedReader<'_>,
    media: &Media,
    after: Seq,
    limit: usize,
) -> Result<Vec<Seq>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![&media.conversation, &media.id, after, limit];
    let found = rows.fetch_all(USES, &args).await?;
    found
        .iter()
        .map(|row| row.int(0).map(Seq::from_i64))
        .collect()
}
