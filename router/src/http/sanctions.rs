//! `/admin/users/{userId}/sanctions`: muting, suspending and banning users, for administrators.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_shard::ids::UserId;
use backscroll_shard::model::Caller;
use backscroll_shard::sanctions::{NewSanction, Sanction, SanctionKind};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Path, Query, Staff};
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn admin_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, impose, lift))
        .routes(routes!(revoke))
}

/// Sanctions of one user.
#[derive(Serialize, ToSchema)]
struct SanctionList {
    /// Newest first, at most 100.
    sanctions: Vec<Sanction>,
}

/// A user's sanctions
///
/// The newest 100, also those that have ended or were lifted.
#[utoipa::path(
    get, path = "/admin/users/{userId}/sanctions", tag = "staff", operation_id = "listSanctions",
    params(("userId" = UserId, Path)),
    responses((status = 200, description = "The sanctions", body = SanctionList), problems::ReadStaff),
)]
async fn list(
    Staff(_): Staff,
    State(app): State<Arc<App>>,
    Path(user): Path<UserId>,
) -> Result<Answer<SanctionList>, Problem> {
    let sanctions = app.store.sanctions().of_user(&user).await?;
    Ok(Answer(SanctionList { sanctions }))
}

/// Mute, suspend or ban a user
///
/// It holds on every node within `directory.refresh_interval`, on connections that are open, too, until its time or until it is
/// lifted. The user is shown the reason. It is written to the log.
#[utoipa::path(
    post, path = "/admin/users/{userId}/sanctions", tag = "staff", operation_id = "imposeSanction",
    params(("userId" = UserId, Path)),
    request_body(content = NewSanction, example = json!({"kind": "mute", "reason": "Advertising in three groups"})),
    responses((status = 201, description = "The sanction", body = Sanction), problems::Sanction),
)]
async fn impose(
    Staff(caller): Staff,
    State(app): State<Arc<App>>,
    Path(user): Path<UserId>,
    Json(new): Json<NewSanction>,
) -> Result<(StatusCode, Answer<Sanction>), Problem> {
    impose_on(&app, &caller, &user, &new).await
}

async fn impose_on(
    app: &App,
    caller: &Caller,
    user: &UserId,
    new: &NewSanction,
) -> Result<(StatusCode, Answer<Sanction>), Problem> {
    let sanctions = app.store.sanctions();
    let sanction = sanctions.impose(&caller.user, user, new).await?;
    let (kind, until) = (
        sanction.kind.name(),
        sanction.until.map(|it| it.to_string()),
    );
    tracing::info!(target: "backscroll::audit", admin = ?caller.user, ?user, kind, until, reason = ?sanction.reason, "sanction imposed");
    Ok((StatusCode::CREATED, Answer(sanction)))
}

/// Why tokens are revoked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Revocation {
    /// For the user and for other moderators.
    #[schema(nullable = false, min_length = 1, max_length = 500)]
    reason: Option<String>,
}

/// Revoke a user's tokens
///
/// Those that were issued until now are refused, and connections that came with them are closed. Tokens that are issued from the next
/// second on are accepted. It is a sanction of the kind `revoke`.
#[utoipa::path(
    post, path = "/admin/users/{userId}/revoke", tag = "staff", operation_id = "revokeTokens",
    params(("userId" = UserId, Path)),
    request_body(content = Revocation, example = json!({"reason": "The phone was stolen"})),
    responses((status = 201, description = "The sanction", body = Sanction), problems::Sanction),
)]
async fn revoke(
    Staff(caller): Staff,
    State(app): State<Arc<App>>,
    Path(user): Path<UserId>,
    Json(revocation): Json<Revocation>,
) -> Result<(StatusCode, Answer<Sanction>), Problem> {
    let new = NewSanction {
        kind: SanctionKind::Revoke,
        until: None,
        reason: revocation
            .reason
            .unwrap_or_else(|| "sign in again".to_owned()),
    };
    impose_on(&app, &caller, &user, &new).await
}

/// Which sanctions to lift.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LiftQuery {
    /// Only those of this kind; all when left out.
    #[param(nullable = false)]
    kind: Option<SanctionKind>,
}

/// Lift a user's sanctions
///
/// Those that are in force, of one kind or of all. It is written to the log.
#[utoipa::path(
    delete, path = "/admin/users/{userId}/sanctions", tag = "staff", operation_id = "liftSanctions",
    params(("userId" = UserId, Path), LiftQuery),
    responses((status = 200, description = "The sanctions that were lifted", body = SanctionList), problems::Lift),
)]
async fn lift(
    Staff(caller): Staff,
    State(app): State<Arc<App>>,
    Path(user): Path<UserId>,
    Query(query): Query<LiftQuery>,
) -> Result<Answer<SanctionList>, Problem> {
    let sanctions = app.store.sanctions();
    let sanctions = sanctions.lift(&caller.user, &user, query.kind).await?;
    let kinds: Vec<&str> = sanctions.iter().map(|it| it.kind.name()).collect();
    tracing::info!(target: "backscroll::audit", admin = ?caller.user, ?user, ?kinds, "sanctions lifted");
    Ok(Answer(SanctionList { sanctions }))
}
