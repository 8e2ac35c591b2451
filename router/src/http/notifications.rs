//! `/notifications`: what a user is told apart from messages; and `/admin/notifications`, which sends it.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_shard::ids::{NotificationId, UserId};
use backscroll_shard::model::{
    NewNotification, Notification, NotificationFilter, NotificationList, UnreadNotifications,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Bearer, Json, LIST_MAX, Path, Query, Staff, page_limit};
use super::mounts::{ChatRoutes, also_by_post_and_put};
use super::problem::{Code, Problem};
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![
        routes!(list),
        routes!(unread_count),
        also_by_post_and_put(routes!(read), read),
        routes!(read_all),
    ]
}

pub(super) fn admin_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(send))
}

/// Which page of the notifications.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NotificationQuery {
    /// `nextCursor` of the page before.
    #[param(nullable = false, min_length = 1)]
    cursor: Option<String>,
    /// Most entries.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// Only unread ones.
    #[param(nullable = false, default = false)]
    unread: Option<bool>,
    /// Only those of this type.
    #[param(
        nullable = false,
        min_length = 1,
        max_length = 64,
        pattern = r"^[A-Za-z0-9_.:-]+$"
    )]
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// My notifications
///
/// The newest first. The newest 500 (a setting) are kept.
#[utoipa::path(
    get, path = "/notifications", tag = "notifications", operation_id = "listNotifications",
    params(NotificationQuery),
    responses((status = 200, description = "A page of them", body = NotificationList), problems::Own),
)]
async fn list(
    me: Bearer,
    State(app): State<Arc<App>>,
    Query(query): Query<NotificationQuery>,
) -> Result<Answer<NotificationList>, Problem> {
    let limit = page_limit(query.limit, LIST_MAX)?;
    let filter = NotificationFilter {
        unread: query.unread.unwrap_or(false),
        kind: query.kind.as_deref(),
    };
    let cursor = query.cursor.as_deref();
    let listing = app.store.notifications(&me.caller, cursor, filter, limit);
    Ok(Answer(listing.await?))
}

/// How many of my notifications I have not read
#[utoipa::path(
    get, path = "/notifications/unread-count", tag = "notifications", operation_id = "getUnreadNotifications",
    responses((status = 200, description = "Of those that are kept", body = UnreadNotifications), problems::Own),
)]
async fn unread_count(
    me: Bearer,
    State(app): State<Arc<App>>,
) -> Result<Answer<UnreadNotifications>, Problem> {
    Ok(Answer(app.store.unread_notifications(&me.caller).await?))
}

/// I have read this one
///
/// `POST` and `PUT` do the same, for front-ends of other servers.
#[utoipa::path(
    patch, path = "/notifications/{notificationId}/read", tag = "notifications", operation_id = "readNotification",
    params(("notificationId" = NotificationId, Path)),
    responses((status = 200, description = "It, read", body = Notification), problems::OwnThing),
)]
async fn read(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<NotificationId>,
) -> Result<Answer<Notification>, Problem> {
    Ok(Answer(app.store.read_notification(&me.caller, id).await?))
}

/// I have read them all
#[utoipa::path(
    post, path = "/notifications/read-all", tag = "notifications", operation_id = "readNotifications",
    responses((status = 204, description = "Those that were there are read"), problems::Own),
)]
async fn read_all(me: Bearer, State(app): State<Arc<App>>) -> Result<StatusCode, Problem> {
    app.store.read_notifications(&me.caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What came of a notification.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Notified {
    /// To whom it was sent.
    sent: Vec<Sent>,
    /// To whom it could not be sent just now: nothing is stored for them. Send it to them again.
    failed: Vec<Unsent>,
}

/// A user, and the notification that they were sent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Sent {
    /// Who.
    user_id: UserId,
    /// Its number among theirs.
    notification_id: NotificationId,
}

/// Users who were not sent it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Unsent {
    /// Who.
    user_ids: Vec<UserId>,
    /// Why: a code of the problems.
    code: Code,
}

/// Send a notification
///
/// To each of the users. It is for administrators, and is written to the log. Repeating it sends it again.
#[utoipa::path(
    post, path = "/admin/notifications", tag = "notifications", operation_id = "sendNotification",
    request_body(content = NewNotification, example = json!({
        "userIds": ["bob"], "type": "offer", "title": "A new offer", "body": "It ends on Friday", "actionUrl": "/offers/7",
    })),
    responses((status = 200, description = "To whom it was sent", body = Notified), problems::Administer),
)]
async fn send(
    Staff(caller): Staff,
    State(app): State<Arc<App>>,
    Json(new): Json<NewNotification>,
) -> Result<Answer<Notified>, Problem> {
    let kind = new.kind.clone();
    let outcome = app.store.notify(&caller, new).await?;
    let sent: Vec<Sent> = outcome
        .sent
        .into_iter()
        .map(|(user_id, notification)| Sent {
            user_id,
            notification_id: notification.id,
        })
        .collect();
    let mut failed = Vec::new();
    for (user_ids, error) in outcome.failed {
        tracing::warn!(%error, users = user_ids.len(), "a notification could not be stored");
        let code = Problem::from(error).code();
        failed.push(Unsent { user_ids, code });
    }
    let users: Vec<&str> = sent.iter().map(|sent| sent.user_id.as_str()).collect();
    tracing::info!(target: "backscroll::audit", admin = ?caller.user, ?users, kind, "notification sent");
    Ok(Answer(Notified { sent, failed }))
}
