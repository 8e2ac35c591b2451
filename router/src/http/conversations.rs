//! `/conversations`: the caller's conversations.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{
    Conversation, ConversationList, ConversationPatch, NewConversation, UnreadCount, Watermarks,
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::extract::{
    Bearer, Json, LIST_MAX, OptionalJson, Path, Query, idempotency_key, page_limit,
};
use super::mounts::{ChatRoutes, also_by_post_and_put};
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![
        routes!(list, create),
        routes!(one, change, delete),
        also_by_post_and_put(routes!(read), read),
        routes!(delivered),
        routes!(unread_count),
    ]
}

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// `nextCursor` of the page before.
    #[param(nullable = false, min_length = 1)]
    cursor: Option<String>,
    /// Most entries.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

impl ListQuery {
    pub(super) fn checked(&self) -> Result<(Option<&str>, u32), Problem> {
        Ok((self.cursor.as_deref(), page_limit(self.limit, LIST_MAX)?))
    }
}

/// My conversations
///
/// Pinned ones first, then those with the latest activity.
#[utoipa::path(
    get, path = "/conversations", tag = "conversations", operation_id = "listConversations",
    params(ListQuery),
    responses((status = 200, description = "A page of them", body = ConversationList), problems::Own),
)]
async fn list(
    me: Bearer,
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<ConversationList>, Problem> {
    let (cursor, limit) = query.checked()?;
    Ok(Answer(
        app.store
            .list_conversations(&me.caller, cursor, limit)
            .await?,
    ))
}

/// Start a conversation
///
/// `direct` is create-or-get: there is one conversation for each pair of users, whatever the Idempotency-Key. Groups and
/// channels are new each time, unless an Idempotency-Key says that this is a repetition: the same request by the same
/// caller is answered with 200 and the conversation that the first one made, as it is now, renamed or with other members as
/// it may be. That holds for as long as the conversation exists. Another request under the key is 409
/// `conflict_idempotency`: requests are the same when `kind`, `title`, `metadata` and the set of members are. So is every
/// request after the conversation was deleted.
#[utoipa::path(
    post, path = "/conversations", tag = "conversations", operation_id = "createConversation",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes it safe to repeat the request: the same key and request give the same conversation. Each caller has their own keys", min_length = 1, max_length = 64, nullable = false)),
    request_body(content = NewConversation, examples(
        ("direct" = (summary = "With one other user", value = json!({"kind": "direct", "members": ["bob"]}))),
        ("group" = (summary = "A group", value = json!({"kind": "group", "members": ["bob", "carol"], "title": "Lunch"}))),
    )),
    responses(
        (status = 201, description = "It is new", body = Conversation),
        (status = 200, description = "It was there", body = Conversation),
        problems::Create,
    ),
)]
async fn create(
    me: Bearer,
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Json(new): Json<NewConversation>,
) -> Result<(StatusCode, Answer<Conversation>), Problem> {
    let key = idempotency_key(&headers)?;
    let (conversation, created) = app.store.create_conversation(&me.caller, new, key).await?;
    Ok((
        if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        },
        Answer(conversation),
    ))
}

/// One conversation
///
/// With my role and my watermarks.
#[utoipa::path(
    get, path = "/conversations/{conversationId}", tag = "conversations", operation_id = "getConversation",
    params(("conversationId" = ConversationId, Path)),
    responses((status = 200, description = "The conversation", body = Conversation), problems::Read),
)]
async fn one(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
) -> Result<Answer<Conversation>, Problem> {
    Ok(Answer(app.store.conversation(&me.caller, id).await?))
}

/// Change a conversation
///
/// Title, metadata and `membersMayPin` are everybody's, and need the role `admin` or `owner`. `pinned` and `muted` are
/// mine: they show in my list.
#[utoipa::path(
    patch, path = "/conversations/{conversationId}", tag = "conversations", operation_id = "changeConversation",
    params(("conversationId" = ConversationId, Path)),
    request_body(content = ConversationPatch, example = json!({"title": "Lunch on Friday"})),
    responses((status = 200, description = "The conversation after the change", body = Conversation), problems::Write),
)]
async fn change(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    Json(patch): Json<ConversationPatch>,
) -> Result<Answer<Conversation>, Problem> {
    Ok(Answer(
        app.store.update_conversation(&me.caller, id, patch).await?,
    ))
}

/// Delete a conversation
///
/// For all its members; only its owner can.
#[utoipa::path(
    delete, path = "/conversations/{conversationId}", tag = "conversations", operation_id = "deleteConversation",
    params(("conversationId" = ConversationId, Path)),
    responses((status = 204, description = "It is gone"), problems::Remove),
)]
async fn delete(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
) -> Result<StatusCode, Problem> {
    app.store.delete_conversation(&me.caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How far.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Watermark {
    /// The message up to which; without it, the newest.
    seq: Option<Seq>,
}

/// I have read up to here
///
/// Watermarks only move forward: an earlier `seq` changes nothing. `POST` and `PUT` do the same, for front-ends of other servers.
#[utoipa::path(
    patch, path = "/conversations/{conversationId}/read", tag = "conversations", operation_id = "markRead",
    params(("conversationId" = ConversationId, Path)),
    request_body(content = Option<Watermark>, description = "May be left out", example = json!({"seq": 41})),
    responses((status = 200, description = "My watermarks", body = Watermarks), problems::Mark),
)]
async fn read(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    OptionalJson(to): OptionalJson<Watermark>,
) -> Result<Answer<Watermarks>, Problem> {
    Ok(Answer(app.store.mark_read(&me.caller, id, to.seq).await?))
}

/// My devices have received up to here
///
/// Watermarks only move forward: an earlier `seq` changes nothing.
#[utoipa::path(
    patch, path = "/conversations/{conversationId}/delivered", tag = "conversations", operation_id = "markDelivered",
    params(("conversationId" = ConversationId, Path)),
    request_body(content = Option<Watermark>, description = "May be left out", example = json!({"seq": 41})),
    responses((status = 200, description = "My watermarks", body = Watermarks), problems::Mark),
)]
async fn delivered(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    OptionalJson(to): OptionalJson<Watermark>,
) -> Result<Answer<Watermarks>, Problem> {
    Ok(Answer(
        app.store.mark_delivered(&me.caller, id, to.seq).await?,
    ))
}

/// How much I have not read
#[utoipa::path(
    get, path = "/unread-count", tag = "conversations", operation_id = "getUnreadCount",
    responses((status = 200, description = "Over all my conversations", body = UnreadCount), problems::Own),
)]
async fn unread_count(
    me: Bearer,
    State(app): State<Arc<App>>,
) -> Result<Answer<UnreadCount>, Problem> {
    Ok(Answer(app.store.unread_count(&me.caller).await?))
}
