//! `/blocks`: whom the caller blocks.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_shard::ids::UserId;
use backscroll_shard::model::BlockList;
use utoipa_axum::routes;

use super::conversations::ListQuery;
use super::extract::{Bearer, Path, Query};
use super::mounts::ChatRoutes;
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![routes!(list), routes!(block, unblock)]
}

/// Whom I block
///
/// By id.
#[utoipa::path(
    get, path = "/blocks", tag = "blocks", operation_id = "listBlocks",
    params(ListQuery),
    responses((status = 200, description = "A page of them", body = BlockList), problems::Own),
)]
async fn list(
    me: Bearer,
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<BlockList>, Problem> {
    let (cursor, limit) = query.checked()?;
    Ok(Answer(
        app.store.blocked_users(&me.caller, cursor, limit).await?,
    ))
}

/// Block a user
///
/// While one of two users blocks the other, their direct conversation takes no messages, edits and reactions, and neither sees
/// the other type, or online; the blocked user cannot start a conversation with the other, or add them to one. Conversations
/// that both are in already stay as they are. What is refused is `not_accepted`, to both. At most 1,000 users.
#[utoipa::path(
    put, path = "/blocks/{userId}", tag = "blocks", operation_id = "blockUser",
    params(("userId" = UserId, Path)),
    responses((status = 204, description = "I block them"), problems::Block),
)]
async fn block(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(user): Path<UserId>,
) -> Result<StatusCode, Problem> {
    app.store.block(&me.caller, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Block a user no more
#[utoipa::path(
    delete, path = "/blocks/{userId}", tag = "blocks", operation_id = "unblockUser",
    params(("userId" = UserId, Path)),
    responses((status = 204, description = "I do not block them"), problems::Own),
)]
async fn unblock(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(user): Path<UserId>,
) -> Result<StatusCode, Problem> {
    app.store.unblock(&me.caller, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}
