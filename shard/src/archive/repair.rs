//! What a repair writes: messages put right by what their archived copies say.
//!
//! A repair is a change like any other: it takes the conversation's next rev, so that clients that follow the conversation
//! get it, and so that it counts before every copy there is (INV-COPY). Nothing is changed twice: a message that was put
//! right, or changed meanwhile, is left as it is.

use super::{erasure, is_held};
use crate::db::Connection;
use crate::error::Result;
use crate::head::{self, Head};
use crate::ids::ConversationId;
use crate::mentions;
use crate::message::{self, StoredMessage};
use crate::model::Timestamp;
use crate::owned::OwnedTransaction;
use crate::pins;
use crate::threads;

/// In a job's transaction: gives a hot row the content of an archived copy that is newer, and says whether it did. Nothing
/// is done when the row is not older any more, or the conversation is deleted.
///
/// # Errors
/// When the database fails.
pub async fn take_newer(
    connection: &mut Connection,
    conversation: ConversationId,
    copy: &StoredMessage,
    now: Timestamp,
) -> Result<bool> {
    let rows = &mut OwnedTransaction::for_job(connection);
    let Some(head) = locked(rows, conversation).await? else {
        return Ok(false);
    };
    let hot = message::lock_row(rows, conversation, copy.seq).await?;
    let Some(hot) = hot.filter(|hot| hot.rev < copy.rev) else {
        return Ok(false);
    };
    if copy.deleted_at.is_some() {
        erasure::erase_anew(rows, conversation, copy.seq, now).await?;
    }
    let newer = StoredMessage {
        client_msg_id: hot.client_msg_id,
        ..copy.clone()
    };
    write(rows, head, (newer, true)).await?;
    Ok(true)
}

/// In a job's transaction: deletes a message whose content has come back after it was deleted, and says whether it did; its
/// archived copies are put down for erasure (INV-ERASE). `newest` is the newest archived copy, which counts if there is no
/// hot row. Nothing is done when the message is deleted by now, the conversation is deleted, or it is under a legal hold.
///
/// # Errors
/// When the database fails.
pub async fn delete_again(
    connection: &mut Connection,
    conversation: ConversationId,
    newest: &StoredMessage,
    now: Timestamp,
) -> Result<bool> {
    let rows = &mut OwnedTransaction::for_job(connection);
    let Some(head) = locked(rows, conversation).await? else {
        return Ok(false);
    };
    let hot = message::lock_row(rows, conversation, newest.seq).await?;
    let is_hot = hot.is_some();
    let mut message = hot.unwrap_or_else(|| newest.clone());
    if message.deleted_at.is_some() || is_held(rows, conversation).await? {
        return Ok(false);
    }
    let mentioned = message::stored_mentions(message.mentions.as_deref());
    mentions::remove(rows, (conversation, message.seq), &mentioned).await?;
    message.mark_deleted(now);
    erasure::erase_anew(rows, conversation, message.seq, now).await?;
    write(rows, head, (message, is_hot)).await?;
    Ok(true)
}

/// The conversation's head, locked; none when it is deleted.
async fn locked(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
) -> Result<Option<Head>> {
    let heads = head::lock(rows, &[conversation]).await?;
    Ok(heads.into_iter().find(|head| head.deleted_at.is_none()))
}

/// Writes the message at the conversation's next rev.
async fn write(
    rows: &mut OwnedTransaction<'_>,
    mut head: Head,
    (mut message, is_hot): (StoredMessage, bool),
) -> Result<()> {
    message.rev = head.next_rev();
    pins::follow(rows, head.id, &message).await?;
    threads::follow(rows, head.id, &message).await?;
    head.touch(&message);
    head.marked |= message.seq == head.head_seq;
    if is_hot {
        message::update(rows, head.id, &message).await?;
    } else {
        head.thaw(&message);
        message::insert_again(rows, &[(head.id, message)]).await?;
    }
    head::save(rows, &[&head]).await
}
