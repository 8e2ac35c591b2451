//! Which records of an imported channel are which messages, and how an input is recognised that was imported before.

use twox_hash::XxHash3_64;

use crate::db::{Row, values};
use crate::error::Result;
use crate::ids::{ConversationId, Seq};
use crate::message::message_type_code;
use crate::model::{HistoryRecord, RawJson};
use crate::owned::{OwnedReader, OwnedTransaction};

/// By the primary key, as all of these.
const BATCHES_FROM: &str = "SELECT last_record, last_seq, digest FROM import_batches \
     WHERE conversation_id = ? AND last_record >= ? ORDER BY last_record";
const INSERT_BATCH: &str = "INSERT INTO import_batches (conversation_id, last_record, last_seq, digest) VALUES (?, ?, ?, ?)";

/// Records of an imported channel that were stored together: they follow those of the batch before, and so do their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedBatch {
    /// The number of its last record.
    pub last_record: u64,
    /// Which message that is.
    pub last_seq: Seq,
    /// The [`digest`] of all records up to it, from the last batch before that has none; none for what a version imported
    /// that kept none.
    pub digest: Option<u64>,
}

/// The digest of records of which the last is `record`, and those before have the digest `before`; 0 for none.
#[must_use]
pub fn digest(before: u64, record: &HistoryRecord) -> u64 {
    let mut bytes = Vec::with_capacity(record.text.len() + 96);
    let json = |json: &Option<RawJson>| json.as_ref().map(|json| json.get().to_owned());
    let (attachments, reactions) = (json(&record.attachments), json(&record.reactions));
    let metadata = json(&record.metadata);
    for text in [
        Some(record.user.as_str()),
        Some(record.text.as_str()),
        attachments.as_deref(),
        reactions.as_deref(),
        metadata.as_deref(),
    ] {
        bytes.push(u8::from(text.is_some()));
        let text = text.unwrap_or_default();
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    let answered = record.reply_to.map(|seq| seq.as_i64());
    let kind = message_type_code(record.message_type);
    for number in [
        Some(record.at),
        Some(kind),
        answered,
        record.edited_at,
        record.deleted_at,
    ] {
        bytes.push(u8::from(number.is_some()));
        bytes.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
    }
    XxHash3_64::oneshot_with_seed(before, &bytes)
}

/// The batches of a channel of which `stored` records are stored, from the one that has record `from` on. What a version
/// imported that kept no batches is the first.
///
/// # Errors
/// When the database fails.
pub(crate) async fn batches(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    (from, stored): (u64, u64),
) -> Result<Vec<ImportedBatch>> {
    let first = i64::try_from(from).unwrap_or(i64::MAX);
    let found = rows.fetch_all(BATCHES_FROM, &values![&id, first]).await?;
    let batch = |row: &Row| {
        let mut columns = row.columns();
        Ok(ImportedBatch {
            last_record: u64::try_from(columns.int()?).unwrap_or(0),
            last_seq: Seq::from_i64(columns.int()?),
            digest: columns.opt_int()?.map(i64::cast_unsigned),
        })
    };
    let batches: Vec<ImportedBatch> = found.iter().map(batch).collect::<Result<_>>()?;
    let is_old = batches.is_empty() && stored > 0;
    Ok(if is_old {
        vec![unknown(stored)]
    } else {
        batches
    })
}

/// Records that were imported before batches were kept: as far as anything is known, one import without an interruption.
pub(super) fn unknown(records: u64) -> ImportedBatch {
    ImportedBatch {
        last_record: records,
        last_seq: Seq(records),
        digest: None,
    }
}

/// Enters a batch that was stored.
///
/// # Errors
/// When the database fails.
pub(super) async fn insert(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    batch: ImportedBatch,
) -> Result<()> {
    let last_record = i64::try_from(batch.last_record).unwrap_or(i64::MAX);
    let digest = batch.digest.map(u64::cast_signed);
    let args = values![&id, last_record, batch.last_seq, digest];
    transaction.execute(INSERT_BATCH, &args).await?;
    Ok(())
}

/// Enters what a version imported that kept no batches, unless that is done.
///
/// # Errors
/// When the database fails.
pub(super) async fn insert_unknown(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    records: u64,
) -> Result<()> {
    let known = transaction
        .fetch_all(BATCHES_FROM, &values![&id, 0])
        .await?;
    match known.is_empty() {
        true => insert(transaction, id, unknown(records)).await,
        false => Ok(()),
    }
}

/// Which message a stored record is; `batches` are those from its own on.
pub(super) fn message_of(batches: &[ImportedBatch], record: u64) -> Seq {
    let batch = batches.iter().find(|batch| batch.last_record >= record);
    batch.map_or(Seq(record), |batch| {
        Seq(batch.last_seq.0.saturating_sub(batch.last_record - record))
    })
}
