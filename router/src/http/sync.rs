//! `/sync`: what changed while a client was away.

use std::sync::Arc;

use axum::Extension;
use axum::Json as Answer;
use axum::extract::State;
use backscroll_shard::model::{SyncPage, SyncRequest};
use utoipa_axum::routes;

use super::extract::{Bearer, Json, TurnSlot};
use super::mounts::ChatRoutes;
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![routes!(sync)]
}

/// Everything that changed since
///
/// Give the cursor of the last answer, and the conversations whose messages are kept with the rev of each. Call again
/// while `hasMore` is true.
#[utoipa::path(
    post, path = "/sync", tag = "sync", operation_id = "sync",
    request_body(content = SyncRequest, examples(
        ("first" = (summary = "The first time", value = json!({}))),
        ("again" = (summary = "One conversation is kept, up to its change 57", value = json!({"conversations": {"00000000000003e900000000000004d2": 57}}))),
    )),
    responses((status = 200, description = "The changes, or a first part of them", body = SyncPage), problems::OwnBody),
)]
async fn sync(
    me: Bearer,
    State(app): State<Arc<App>>,
    Extension(slot): Extension<TurnSlot>,
    Json(request): Json<SyncRequest>,
) -> Result<Answer<SyncPage>, Problem> {
    slot.wait(&app, &me.caller.user).await?; // after the body has come
    Ok(Answer(app.store.sync(&me.caller, request).await?))
}
