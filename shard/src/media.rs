//! Files of conversations, and which messages use them.
//!
//! | state | `expires_at` | next |
//! |---|---|---|
//! | pending | set | ready or rejected, once ([`finish`]); removed when it expires |
//! | processing, failed | as ready | a picture that is ready, but for its smaller forms ([`processing`]) |
//! | ready, unused | set | used, by the transaction of a message ([`refer`]); removed when it expires, or by its uploader |
//! | ready, used | NULL | removed with the last message that uses it ([`release`]) |
//! | rejected | set | removed when it expires |
//! | removed | set | the row goes once its objects are deleted ([`forget`]) |
//!
//! INV-ERASE: a row is there as long as an object may be, and the receipts of a conversation's erasures wait for its removed
//! files. INV-MEMBER is [`crate::store`]'s. A crash leaves a row that expires, or one that is removed and collected later.

pub mod processing;

use crate::db::{Connection, Row, Value, in_rows, padded, values};
use crate::error::{Error, MediaFault, Result};
use crate::ids::{ConversationId, MediaId, Seq, UserId};
use crate::model::{
    Media, MediaFacts, MediaKind, MediaState, MediaVariant, MediaVerdict, Timestamp, VariantKeys,
};
use crate::owned::{OwnedReader, OwnedTransaction};

macro_rules! media_columns {
    () => {
        "m.conversation_id, m.id, m.uploader, m.state, m.kind, m.file_name, m.content_type, m.bytes, m.sha256, m.upload_key, \
         m.upload_id, m.object_key, m.width, m.height, m.duration_ms, m.placeholder, m.reason, m.created_at, m.expires_at, \
         m.small_key, m.large_key, m.variants, m.process_at"
    };
}
use media_columns;

/// By the index `media_id`.
const ONE: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m {by media_id} WHERE m.id = ? AND m.state < 4"
);
/// By the primary key.
const LOCK: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m WHERE m.conversation_id = ? AND m.id = ? AND m.state < 4 {for_update}"
);
/// By the primary key.
const LOCK_SOME: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m {by PRIMARY} WHERE m.state < 4 AND "
);
const INSERT: &str = "INSERT INTO media (conversation_id, id, uploader, state, kind, file_name, content_type, bytes, sha256, upload_key, \
     upload_id, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// By the index `media_uploader`, which has all that is asked for.
const OF_UPLOADER: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(m.bytes), 0) AS {signed}) FROM media m {by media_uploader} \
     WHERE m.uploader = ?";
/// By the primary key.
const READY: &str = "UPDATE media SET state = 2, object_key = ?, bytes = ?, content_type = ?, width = ?, height = ?, duration_ms = ?, placeholder = ?, \
     small_key = ?, large_key = ?, process_at = {now} + ? WHERE conversation_id = ? AND id = ?";
/// By the primary key.
const REJECT: &str = "UPDATE media SET state = 3, reason = ? WHERE conversation_id = ? AND id = ?";
const REFER: &str = "INSERT INTO media_refs (conversation_id, seq, media_id) VALUES ";
/// By the primary key.
const KEEP: &str = "UPDATE media SET expires_at = NULL WHERE conversation_id = ? AND id = ?";
/// By the primary key.
const REFERRED: &str = "SELECT media_id FROM media_refs WHERE conversation_id = ? AND seq = ?";
/// By the primary key.
const DROP_REFS: &str = "DELETE FROM media_refs WHERE conversation_id = ? AND seq = ?";
/// By the primary keys of both tables.
const REFERRING: &str = "SELECT DISTINCT r.seq FROM media_refs r WHERE r.conversation_id = ? AND r.seq BETWEEN ? AND ? \
     AND NOT EXISTS (SELECT 1 FROM messages h WHERE h.conversation_id = r.conversation_id AND h.seq = r.seq)";
/// By the index `media_refs_media`.
const IS_USED: &str = "SELECT 1 FROM media_refs WHERE conversation_id = ? AND media_id = ? LIMIT 1";
/// Whoever works on a removed picture may still put an object, so that its objects are deleted after that (INV-ERASE). The end of
/// that work is at most [`processing::LEASE`] away; a later one was written by a wrong clock.
macro_rules! expires_once_left {
    () => {
        "expires_at = CASE WHEN process_at > ? AND process_at < ? THEN process_at ELSE ? END"
    };
}
/// By the primary key.
const REMOVE: &str = concat!(
    "UPDATE media SET state = 4, ",
    expires_once_left!(),
    " WHERE conversation_id = ? AND id = ?"
);
/// By the primary key.
const DROP_ALL_REFS: &str = "DELETE FROM media_refs WHERE conversation_id = ?";
/// By the primary key.
const REMOVE_ALL: &str = concat!(
    "UPDATE media SET state = 4, ",
    expires_once_left!(),
    " WHERE conversation_id = ? AND state < 4"
);
/// By the index `media_expires`, and the primary key of the holds.
const EXPIRED: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m {by media_expires} WHERE m.expires_at <= ? AND m.expires_at >= ? \
     AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.conversation_id = m.conversation_id) ORDER BY m.expires_at LIMIT ?"
);
/// By the primary key.
const FORGET: &str = "DELETE FROM media WHERE conversation_id = ? AND id = ? AND state = 4";
/// By the primary key.
const AFTER: &str = concat!(
    "SELECT ",
    media_columns!(),
    " FROM media m WHERE m.conversation_id >= ? AND (m.conversation_id > ? OR m.id > ?) ORDER BY m.conversation_id, m.id LIMIT ?"
);

/// What a user has on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn from_row(row: &Row) -> Result<Media> {
    let small = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let sha256 = row.opt_bytes(8)?.map(<[u8; 32]>::try_from).transpose();
    Ok(Media {
        conversation: row.conversation(0)?,
        id: media_id(row, 1)?,
        uploader: row.user(2)?,
        state: state_of(row)?,
        kind: kind_of(row.int(4)?)?,
        file_name: row.text(5)?,
        content_type: row.text(6)?,
        bytes: row.int(7)?.cast_unsigned(),
        sha256: sha256.map_err(|_| Error::corrupt("a file's checksum"))?,
        upload_key: row.text(9)?,
        upload_id: row.opt_text(10)?,
        object_key: row.opt_text(11)?,
        facts: MediaFacts {
            width: small(row.opt_int(12)?),
            height: small(row.opt_int(13)?),
            duration_ms: row.opt_int(14)?.map(i64::cast_unsigned),
            placeholder: row.opt_text(15)?,
        },
        variant_keys: match (row.opt_text(19)?, row.opt_text(20)?) {
            (Some(small), Some(large)) => Some(VariantKeys { small, large }),
            _ => None,
        },
        variants: variants_of(row)?.unwrap_or_default(),
        process_at: row.opt_int(22)?.map(Timestamp),
        reason: row.opt_text(16)?,
        created_at: Timestamp(row.int(17)?),
        expires_at: row.opt_int(18)?.map(Timestamp),
    })
}

fn media_id(row: &Row, column: usize) -> Result<MediaId> {
    MediaId::from_bytes(&row.bytes(column)?).ok_or_else(|| Error::corrupt("a media id"))
}

/// One file, wherever in the reader's range it belongs.
///
/// # Errors
/// When the database fails.
pub(crate) async fn one(rows: &mut OwnedReader<'_>, id: MediaId) -> Result<Option<Media>> {
    let row = rows.fetch_optional(ONE, &values![&id]).await?;
    row.map(|row| from_row(&row)).transpose()
}

/// One file, locked.
///
/// # Errors
/// [`Error::NotFound`].
pub(crate) async fn lock(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    id: MediaId,
) -> Result<Media> {
    rows.require_conversations([conversation])?;
    let row = rows
        .fetch_optional(LOCK, &values![&conversation, &id])
        .await?;
    row.map_or(Err(Error::NotFound("file")), |row| from_row(&row))
}

/// Those of `ids` that are there, locked, so that none of them is removed before the transaction ends.
///
/// # Errors
/// When the database fails.
pub(crate) async fn lock_some(
    rows: &mut OwnedTransaction<'_>,
    ids: &[(ConversationId, MediaId)],
) -> Result<Vec<Media>> {
    let keys = padded(ids).flat_map(|(conversation, id)| values![conversation, id]);
    let args: Vec<Value<'_>> = keys.collect();
    let condition = in_rows(["m.conversation_id", "m.id"], args.len() / 2);
    let statement = format!("{LOCK_SOME}{condition} {{for_update}}");
    let found = rows.fetch_all(&statement, &args).await?;
    found.iter().map(from_row).collect()
}

/// Whether a message uses the file.
///
/// # Errors
/// When the database fails.
pub(crate) async fn is_used(
    rows: &mut OwnedReader<'_>,
    conversation: ConversationId,
    id: MediaId,
) -> Result<bool> {
    let args = values![&conversation, &id];
    Ok(rows.fetch_optional(IS_USED, &args).await?.is_some())
}

/// What `user` has uploaded to conversations of this shard, and is still there.
///
/// # Errors
/// When the database fails.
pub(crate) async fn usage(rows: &mut OwnedReader<'_>, user: &UserId) -> Result<Usage> {
    let row = rows.fetch_optional(OF_UPLOADER, &values![user]).await?;
    let row = row.ok_or(Error::Unexpected("a count gave no row"))?;
    Ok(Usage {
        files: row.int(0)?.cast_unsigned(),
        bytes: row.int(1)?.cast_unsigned(),
    })
}

/// Puts a pending file down.
///
/// # Errors
/// When the database fails.
pub(crate) async fn insert(rows: &mut OwnedTransaction<'_>, media: &Media) -> Result<()> {
    rows.require_conversations([media.conversation])?;
    let args = values![
        &media.conversation,
        &media.id,
        &media.uploader,
        state_code(media.state),
        kind_code(media.kind),
        media.file_name.as_str(),
        media.content_type.as_str(),
        media.bytes.cast_signed(),
        media.sha256.as_ref(),
        media.upload_key.as_str(),
        media.upload_id.as_deref(),
        media.created_at.0,
        media.expires_at.map(|at| at.0),
    ];
    rows.execute(INSERT, &args).await.map(drop)
}

/// Gives a pending file, which the transaction has locked, its verdict.
///
/// # Errors
/// When the database fails.
pub(crate) async fn finish(
    rows: &mut OwnedTransaction<'_>,
    media: &Media,
    verdict: &MediaVerdict,
) -> Result<()> {
    rows.require_conversations([media.conversation])?;
    let (conversation, id) = (&media.conversation, &media.id);
    match verdict {
        MediaVerdict::Ready {
            object_key,
            bytes,
            content_type,
            facts,
            variant_keys,
        } => {
            let lease = variant_keys.as_ref().map(|_| processing::lease_millis());
            let args = values![
                object_key.as_str(),
                bytes.cast_signed(),
                content_type.as_str(),
                facts.width.map(i64::from),
                facts.height.map(i64::from),
                facts.duration_ms.map(u64::cast_signed),
                facts.placeholder.as_deref(),
                variant_keys.as_ref().map(|keys| keys.small.as_str()),
                variant_keys.as_ref().map(|keys| keys.large.as_str()),
                lease,
                conversation,
                id,
            ];
            rows.execute(READY, &args).await.map(drop)
        }
        MediaVerdict::Rejected(reason) => {
            let args = values![*reason, conversation, id];
            rows.execute(REJECT, &args).await.map(drop)
        }
    }
}

/// In the transaction of new messages: files, which it has locked, are used by them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn refer(
    rows: &mut OwnedTransaction<'_>,
    refs: &[(ConversationId, Seq, MediaId)],
) -> Result<()> {
    rows.require_conversations(refs.iter().map(|(conversation, _, _)| *conversation))?;
    for (conversation, seq, id) in refs {
        let args = values![conversation, *seq, id];
        rows.execute(&format!("{REFER}(?, ?, ?)"), &args).await?;
        rows.execute(KEEP, &values![conversation, id]).await?;
    }
    Ok(())
}

/// In the transaction that deletes a message: it uses no files any more, and those that no other message uses are removed.
/// Says whether there were any.
///
/// # Errors
/// When the database fails.
pub(crate) async fn release(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    seq: Seq,
    now: Timestamp,
) -> Result<bool> {
    rows.require_conversations([conversation])?;
    let args = values![&conversation, seq];
    let found = rows.fetch_all(REFERRED, &args).await?;
    if found.is_empty() {
        return Ok(false);
    }
    rows.execute(DROP_REFS, &args).await?;
    for row in &found {
        let id = media_id(row, 0)?;
        if !is_used(rows, conversation, id).await? {
            remove(rows, conversation, id, now).await?;
        }
    }
    Ok(true)
}

/// In the transaction of a job that is about to drop archived messages from `first` to `last`: those that are not hot use no
/// files any more, as with [`release`].
///
/// # Errors
/// When the database fails.
pub async fn release_archived(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
    now: Timestamp,
) -> Result<()> {
    let args = values![&conversation, first, last];
    for row in rows.fetch_all(REFERRING, &args).await? {
        release(rows, conversation, Seq::from_i64(row.int(0)?), now).await?;
    }
    Ok(())
}

/// From now on nobody sees the file, and its objects may be deleted.
///
/// # Errors
/// When the database fails.
pub(crate) async fn remove(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    id: MediaId,
    now: Timestamp,
) -> Result<()> {
    let latest = now.0 + processing::lease_millis();
    let args = values![now.0, latest, now.0, &conversation, &id];
    rows.execute(REMOVE, &args).await.map(drop)
}

/// In a job's transaction: all files of a deleted conversation are removed.
///
/// # Errors
/// When the database fails.
pub async fn remove_all(
    connection: &mut Connection,
    conversation: ConversationId,
    now: Timestamp,
) -> Result<()> {
    let of = values![&conversation];
    connection.execute(DROP_ALL_REFS, &of).await?;
    let latest = now.0 + processing::lease_millis();
    let args = values![now.0, latest, now.0, &conversation];
    connection.execute(REMOVE_ALL, &args).await.map(drop)
}

/// The files to be collected by `now`, those that expired first at `from` or later; none under a legal hold.
///
/// # Errors
/// When the database fails.
pub async fn expired(
    connection: &mut Connection,
    now: Timestamp,
    from: Timestamp,
    limit: usize,
) -> Result<Vec<Media>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![now.0, from.0, limit];
    let found = connection.fetch_all(EXPIRED, &args).await?;
    found.iter().map(from_row).collect()
}

/// In a job's transaction: a file that has expired is removed, unless a message uses it now. Says whether it is.
///
/// # Errors
/// When the database fails.
pub async fn remove_expired(
    rows: &mut OwnedTransaction<'_>,
    media: &Media,
    now: Timestamp,
) -> Result<bool> {
    if media.state == MediaState::Removed {
        return Ok(true);
    }
    let current = match lock(rows, media.conversation, media.id).await {
        Err(Error::NotFound(_)) => return Ok(false),
        current => current?,
    };
    if current.expires_at.is_none_or(|at| at > now) {
        return Ok(false);
    }
    remove(rows, media.conversation, media.id, now).await?;
    Ok(true)
}

/// In a job's transaction: the objects of a removed file are deleted.
///
/// # Errors
/// When the database fails.
pub async fn forget(connection: &mut Connection, media: &Media) -> Result<()> {
    let args = values![&media.conversation, &media.id];
    connection.execute(FORGET, &args).await.map(drop)
}

/// The files after this one, or from the first of this conversation on, in the order of the primary key; those that are removed
/// included.
///
/// # Errors
/// When the database fails.
pub async fn after(
    connection: &mut Connection,
    after: Option<(ConversationId, Option<MediaId>)>,
    limit: usize,
) -> Result<Vec<Media>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (conversation, id): (&[u8], &[u8]) = match &after {
        Some((conversation, Some(id))) => (conversation.as_ref(), id.as_ref()),
        Some((conversation, None)) => (conversation.as_ref(), &[]),
        None => (&[], &[]),
    };
    let args = values![conversation, conversation, id, limit];
    let found = connection.fetch_all(AFTER, &args).await?;
    found.iter().map(from_row).collect()
}

/// Whether `user` may put the file into a message: it is theirs, or was sent before.
///
/// # Errors
/// [`Error::NotFound`] also for a file of another user that was never sent; [`Error::Media`] for one that is not ready.
pub(crate) fn check_usable(media: Option<&Media>, user: &UserId) -> Result<()> {
    let visible = |media: &&Media| media.uploader == *user || media.expires_at.is_none();
    match media.filter(visible) {
        None => Err(Error::NotFound("file in this conversation")),
        Some(media) if !media.state.is_accepted() => Err(Error::Media(MediaFault::NotReady)),
        Some(_) => Ok(()),
    }
}

fn state_code(state: MediaState) -> i64 {
    match state {
        MediaState::Pending => 1,
        MediaState::Processing | MediaState::Ready | MediaState::Failed => 2,
        MediaState::Rejected => 3,
        MediaState::Removed => 4,
    }
}

/// The smaller forms that were made of a picture; `None` before.
fn variants_of(row: &Row) -> Result<Option<Vec<MediaVariant>>> {
    let corrupt = |_| Error::corrupt("the variants of a file");
    let text = row.opt_text(21)?;
    text.map(|text| serde_json::from_str(&text).map_err(corrupt))
        .transpose()
}

/// Of a picture that is ready, its other columns say how far its smaller forms are: so versions that know of none read it as it is.
fn state_of(row: &Row) -> Result<MediaState> {
    let has_failed = row.opt_text(16)?.is_some();
    let is_processed = variants_of(row)?.is_some() || row.opt_int(22)?.is_none();
    Ok(match row.int(3)? {
        1 => MediaState::Pending,
        2 if has_failed => MediaState::Failed,
        2 if !is_processed => MediaState::Processing,
        2 => MediaState::Ready,
        3 => MediaState::Rejected,
        4 => MediaState::Removed,
        code => {
            return Err(Error::corrupt(format_args!(
                "unknown state of a file {code}"
            )));
        }
    })
}

fn kind_code(kind: MediaKind) -> i64 {
    match kind {
        MediaKind::Image => 1,
        MediaKind::Voice => 2,
        MediaKind::File => 3,
    }
}

fn kind_of(code: i64) -> Result<MediaKind> {
    Ok(match code {
        1 => MediaKind::Image,
        2 => MediaKind::Voice,
        3 => MediaKind::File,
        _ => {
            return Err(Error::corrupt(format_args!(
                "unknown kind of a file {code}"
            )));
        }
    })
}
