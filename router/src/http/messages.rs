//! `/conversations/{id}/messages` and `/messages/{id}`: what was said.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use backscroll_shard::history::PAGE_MAX;
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{
    HistoryPage, Message, MessageEdit, NewMessage, PinList, Position, ReceiptList, ReplyList,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::conversations::ListQuery;
use super::extract::{Bearer, Json, Path, Query, idempotency_key, page_limit};
use super::mounts::ChatRoutes;
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![
        routes!(history, send),
        routes!(one, edit, delete),
        routes!(react, unreact),
        routes!(pin, unpin),
        routes!(pins),
        routes!(replies),
        routes!(receipts),
    ]
}

/// Which part of the history.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// The messages just before this one. At most one of `before`, `after` and `around` may be given; without any, the
    /// newest messages are.
    #[param(nullable = false)]
    before: Option<Seq>,
    /// The messages just after this one.
    #[param(nullable = false)]
    after: Option<Seq>,
    /// The messages on both sides of this one, and itself.
    #[param(nullable = false)]
    around: Option<Seq>,
    /// Most messages.
    #[param(nullable = false, minimum = 1, maximum = 200, default = 20)]
    limit: Option<u32>,
}

impl HistoryQuery {
    fn position(&self) -> Result<Position, Problem> {
        match (self.before, self.after, self.around) {
            (None, None, None) => Ok(Position::Latest),
            (Some(seq), None, None) => Ok(Position::Before(seq)),
            (None, Some(seq), None) => Ok(Position::After(seq)),
            (None, None, Some(seq)) => Ok(Position::Around(seq)),
            _ => Err(Problem::invalid(
                "before, after, around: give at most one of them",
            )),
        }
    }
}

/// A page of history
///
/// Oldest first, wherever the messages are kept. A page that would be very large has fewer messages than asked for, those
/// nearest to the place asked for, and says that there are more. If a part is archived and cannot be read just now, the rest comes with
/// `archiveUnavailable`.
#[utoipa::path(
    get, path = "/conversations/{conversationId}/messages", tag = "messages", operation_id = "listMessages",
    params(("conversationId" = ConversationId, Path), HistoryQuery),
    responses((status = 200, description = "The page", body = HistoryPage), problems::ReadArchived),
)]
async fn history(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    Query(query): Query<HistoryQuery>,
) -> Result<Answer<HistoryPage>, Problem> {
    let position = query.position()?;
    Ok(Answer(
        app.store
            .history(&me.caller, id, position, page_limit(query.limit, PAGE_MAX)?)
            .await?,
    ))
}

/// Send a message
///
/// With a `clientMsgId`, or an Idempotency-Key, which is the same thing, it is safe to send it again. For 30 days (a setting,
/// `limits.idempotency`) after a message was stored, the same id by the same sender in the same conversation is answered
/// with 200 and that message as it is now, edited or deleted as it may be; another body under the id is 409
/// `conflict_idempotency`. After that time a repeat may be stored as a new message, and the old one stays as it is.
#[utoipa::path(
    post, path = "/conversations/{conversationId}/messages", tag = "messages", operation_id = "sendMessage",
    params(
        ("conversationId" = ConversationId, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The same as `clientMsgId`; if both are sent they must be equal", min_length = 1, max_length = 64, nullable = false),
    ),
    request_body(content = NewMessage, example = json!({"content": "Good morning!", "clientMsgId": "6f1c3a52"})),
    responses(
        (status = 201, description = "It is stored durably", body = Message),
        (status = 200, description = "It was stored before", body = Message),
        problems::Send,
    ),
)]
async fn send(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    headers: HeaderMap,
    Json(mut message): Json<NewMessage>,
) -> Result<(StatusCode, Answer<Message>), Problem> {
    if let Some(key) = idempotency_key(&headers)? {
        if message
            .client_msg_id
            .as_deref()
            .is_some_and(|given| given != key)
        {
            return Err(Problem::invalid(
                "clientMsgId: differs from the Idempotency-Key header; send one of them, or the same in both",
            ));
        }
        message.client_msg_id = Some(key.to_owned());
    }
    let sent = app.store.send(&me.caller, id, message).await?;
    Ok((
        if sent.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        },
        Answer(sent.message),
    ))
}

/// One message
///
/// With its edit history.
#[utoipa::path(
    get, path = "/messages/{messageId}", tag = "messages", operation_id = "getMessage",
    params(("messageId" = MessageId, Path)),
    responses((status = 200, description = "The message", body = Message), problems::ReadMessage),
)]
async fn one(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.message(&me.caller, id).await?))
}

/// Edit a message
///
/// Only its author can. Earlier contents are kept. With `mentions` it mentions these members instead of those that it mentioned
/// before.
#[utoipa::path(
    patch, path = "/messages/{messageId}", tag = "messages", operation_id = "editMessage",
    params(("messageId" = MessageId, Path)),
    request_body(content = MessageEdit, example = json!({"content": "Good evening!"})),
    responses((status = 200, description = "The message after the edit", body = Message), problems::WriteMessage),
)]
async fn edit(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
    Json(edit): Json<MessageEdit>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.edit(&me.caller, id, edit).await?))
}

/// Delete a message
///
/// Its author can, and the conversation's admins. The message stays in its place, marked and empty.
#[utoipa::path(
    delete, path = "/messages/{messageId}", tag = "messages", operation_id = "deleteMessage",
    params(("messageId" = MessageId, Path)),
    responses((status = 200, description = "The message, deleted", body = Message), problems::TouchMessage),
)]
async fn delete(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.delete_message(&me.caller, id).await?))
}

/// React to a message
///
/// Reacting twice with the same emoji is the same as once.
#[utoipa::path(
    put, path = "/messages/{messageId}/reactions/{emoji}", tag = "messages", operation_id = "react",
    params(("messageId" = MessageId, Path), ("emoji" = String, Path, description = "An emoji or a short name: 1 to 64 bytes without spaces, percent-encoded", example = "👍", pattern = r"^[^\s\x00-\x1f\x7f-\x9f]{1,64}$")),
    responses((status = 200, description = "The message after it", body = Message), problems::React),
)]
async fn react(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path((id, emoji)): Path<(MessageId, String)>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.react(&me.caller, id, &emoji).await?))
}

/// Take a reaction back
#[utoipa::path(
    delete, path = "/messages/{messageId}/reactions/{emoji}", tag = "messages", operation_id = "unreact",
    params(("messageId" = MessageId, Path), ("emoji" = String, Path, description = "An emoji or a short name: 1 to 64 bytes without spaces, percent-encoded", example = "👍", pattern = r"^[^\s\x00-\x1f\x7f-\x9f]{1,64}$")),
    responses((status = 200, description = "The message after it", body = Message), problems::React),
)]
async fn unreact(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path((id, emoji)): Path<(MessageId, String)>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.unreact(&me.caller, id, &emoji).await?))
}

/// Pin a message
///
/// For all members. Admins may, in direct conversations both members, and every member where the conversation has
/// `membersMayPin`. A message that is pinned already stays as it is. A conversation has at most 100 pinned messages (a setting,
/// `limits.pins`).
#[utoipa::path(
    put, path = "/messages/{messageId}/pin", tag = "messages", operation_id = "pinMessage",
    params(("messageId" = MessageId, Path)),
    responses((status = 200, description = "The message after it", body = Message), problems::React),
)]
async fn pin(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.pin_message(&me.caller, id).await?))
}

/// Take a pin away
///
/// Whoever may pin may. Of a message that is not pinned it changes nothing.
#[utoipa::path(
    delete, path = "/messages/{messageId}/pin", tag = "messages", operation_id = "unpinMessage",
    params(("messageId" = MessageId, Path)),
    responses((status = 200, description = "The message after it", body = Message), problems::React),
)]
async fn unpin(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
) -> Result<Answer<Message>, Problem> {
    Ok(Answer(app.store.unpin_message(&me.caller, id).await?))
}

/// Pinned messages
///
/// The newest message first, wherever the messages are kept. Those that are archived and cannot be read just now are named in
/// `archiveUnavailable`.
#[utoipa::path(
    get, path = "/conversations/{conversationId}/pins", tag = "messages", operation_id = "listPins",
    params(("conversationId" = ConversationId, Path), ListQuery),
    responses((status = 200, description = "A page of them", body = PinList), problems::ReadArchived),
)]
async fn pins(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<PinList>, Problem> {
    let (cursor, limit) = query.checked()?;
    Ok(Answer(app.store.pins(&me.caller, id, cursor, limit).await?))
}

/// The replies of a message
///
/// Those that answer it (`replyTo`), the oldest first, wherever they are kept; deleted ones are not among them. Those that are
/// archived and cannot be read just now are named in `archiveUnavailable`.
#[utoipa::path(
    get, path = "/messages/{messageId}/replies", tag = "messages", operation_id = "listReplies",
    params(("messageId" = MessageId, Path), ListQuery),
    responses((status = 200, description = "A page of them", body = ReplyList), problems::ReadMessage),
)]
async fn replies(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<ReplyList>, Problem> {
    let (cursor, limit) = query.checked()?;
    Ok(Answer(
        app.store.replies(&me.caller, id, cursor, limit).await?,
    ))
}

/// Who received and read a message
///
/// And when: not later than `at`, and later than `after`. Of the members who were there when it was sent, without its sender.
/// Times are kept for 30 days, at most 48 a member, and in steps of 10 s; a member who answered has read what came before. In channels, and in
/// conversations of more than 100 members, 409 `conflict`.
#[utoipa::path(
    get, path = "/messages/{messageId}/receipts", tag = "messages", operation_id = "getReceipts",
    params(("messageId" = MessageId, Path)),
    responses((status = 200, description = "Both lists", body = ReceiptList), problems::Receipts),
)]
async fn receipts(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
) -> Result<Answer<ReceiptList>, Problem> {
    Ok(Answer(app.store.receipts(&me.caller, id).await?))
}
