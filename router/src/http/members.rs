//! `/conversations/{id}/members`: who is in a conversation.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::{Conversation, Member, MemberList, NewMembers, Role};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::conversations::ListQuery;
use super::extract::{Bearer, Json, Path, Query};
use super::mounts::ChatRoutes;
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![routes!(list, add), routes!(change_role, remove)]
}

/// Members
///
/// In the order of their ids.
#[utoipa::path(
    get, path = "/conversations/{conversationId}/members", tag = "members", operation_id = "listMembers",
    params(("conversationId" = ConversationId, Path), ListQuery),
    responses((status = 200, description = "A page of them", body = MemberList), problems::Read),
)]
async fn list(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<MemberList>, Problem> {
    let (cursor, limit) = query.checked()?;
    Ok(Answer(
        app.store.members(&me.caller, id, cursor, limit).await?,
    ))
}

/// Add members
///
/// Those who are members already stay as they are. Leaving is final: those who have left are not added, but asked back, and may add
/// themselves from then on (`members` with only the caller). Then the answer is 202 instead of 200.
#[utoipa::path(
    post, path = "/conversations/{conversationId}/members", tag = "members", operation_id = "addMembers",
    params(("conversationId" = ConversationId, Path)),
    request_body(content = NewMembers, example = json!({"members": ["dave"]})),
    responses(
        (status = 200, description = "The conversation with them", body = Conversation),
        (status = 202, description = "The conversation with those who had not left; the others are asked back", body = Conversation),
        problems::Add,
    ),
)]
async fn add(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<ConversationId>,
    Json(new): Json<NewMembers>,
) -> Result<(StatusCode, Answer<Conversation>), Problem> {
    let (conversation, asked) = app.store.add_members(&me.caller, id, new).await?;
    let status = match asked {
        true => StatusCode::ACCEPTED,
        false => StatusCode::OK,
    };
    Ok((status, Answer(conversation)))
}

/// A member's new role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleChange {
    /// The role.
    role: Role,
}

/// Change a member's role
///
/// Only the owner can. Who is made owner has written in the conversation.
#[utoipa::path(
    patch, path = "/conversations/{conversationId}/members/{userId}", tag = "members", operation_id = "changeRole",
    params(("conversationId" = ConversationId, Path), ("userId" = UserId, Path)),
    request_body(content = RoleChange, example = json!({"role": "admin"})),
    responses((status = 200, description = "The member after the change", body = Member), problems::WriteTo),
)]
async fn change_role(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path((id, user)): Path<(ConversationId, UserId)>,
    Json(change): Json<RoleChange>,
) -> Result<Answer<Member>, Problem> {
    Ok(Answer(
        app.store
            .change_role(&me.caller, id, &user, change.role)
            .await?,
    ))
}

/// Remove a member, or leave
///
/// Removing oneself is leaving. A direct conversation is put away by that: it is in one's list again with the next message.
#[utoipa::path(
    delete, path = "/conversations/{conversationId}/members/{userId}", tag = "members", operation_id = "removeMember",
    params(("conversationId" = ConversationId, Path), ("userId" = UserId, Path)),
    responses((status = 204, description = "They are no member any more"), problems::RemoveFrom),
)]
async fn remove(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path((id, user)): Path<(ConversationId, UserId)>,
) -> Result<StatusCode, Problem> {
    app.store.remove_member(&me.caller, id, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}
