//! Messages that are sent again (INV-IDEM): looked up by their client message ids, and answered as they are now.

use std::collections::{HashMap, HashSet};

use crate::db::{Value, in_rows, padded, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId};
use crate::message::{Draft, Shown, message_columns};
use crate::model::{DeliveryStatus, Sent};
use crate::owned::OwnedReader;
use crate::threads::{self, Threads};

/// Why a repeat is refused that is none.
const OTHER_BODY: &str =
    "this client message id was used before with another body; use a new id for a new message";

/// A client message id of a sender in a conversation.
pub(super) type MessageKey<'a> = (ConversationId, &'a UserId, &'a str);

/// The answer to a message that is stored already.
pub(super) fn again(
    stored: &Shown,
    id: ConversationId,
    (draft, threads): (&Draft, &Threads),
) -> Result<Sent> {
    if stored.body_digest() != draft.body_digest {
        return Err(Error::IdempotencyConflict(OTHER_BODY));
    }
    let mut message = stored.clone().into_message(id, DeliveryStatus::Sent);
    threads::show(&mut message, threads);
    threads::attach_one(&mut message, threads);
    Ok(Sent {
        message,
        created: false,
    })
}

/// The stored message that `draft` of `user` repeats, if it repeats one (INV-IDEM).
///
/// # Errors
/// [`Error::IdempotencyConflict`], and those of the database.
pub(crate) async fn repetition(
    rows: &mut OwnedReader<'_>,
    (id, user): (ConversationId, &UserId),
    draft: &Draft,
) -> Result<Option<Sent>> {
    let key = draft.client_msg_id.as_deref().map(|key| (id, user, key));
    let known = find_known(rows, key.into_iter().collect()).await?;
    let Some(stored) = key.and_then(|key| known.get(&key)) else {
        return Ok(None);
    };
    let roots = draft.reply_to.into_iter().chain([stored.seq()]);
    let threads = threads::read(rows, &roots.map(|seq| (id, seq)).collect()).await?;
    again(stored, id, (draft, &threads)).map(Some)
}

/// By the unique index `messages_client_msg_id`.
const KNOWN: &str = concat!(
    "SELECT conversation_id, ",
    message_columns!(shown),
    " FROM messages {by messages_client_msg_id} WHERE "
);

pub(super) async fn find_known<'a>(
    rows: &mut OwnedReader<'_>,
    keys: HashSet<MessageKey<'a>>,
) -> Result<HashMap<MessageKey<'a>, Shown>> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<MessageKey<'a>> = keys.into_iter().collect();
    let args: Vec<Value<'_>> = padded(&keys)
        .flat_map(|(id, user, key)| values![id, *user, key.as_bytes()])
        .collect();
    let columns = ["conversation_id", "sender_id", "client_msg_id"];
    let condition = in_rows(columns, args.len() / 3);
    let mut stored: HashMap<(ConversationId, UserId, String), Shown> = HashMap::new();
    for row in rows
        .fetch_all(&format!("{KNOWN}{condition}"), &args)
        .await?
    {
        let message = Shown::read(&mut row.columns_from(1))?;
        let client_msg_id = message.client_msg_id().unwrap_or_default().to_owned();
        stored.insert(
            (
                row.conversation(0)?,
                message.sender().clone(),
                client_msg_id,
            ),
            message,
        );
    }
    let found = keys.into_iter().filter_map(|key| {
        Some((
            key,
            stored.remove(&(key.0, key.1.clone(), key.2.to_owned()))?,
        ))
    });
    Ok(found.collect())
}
