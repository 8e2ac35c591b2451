//! `/admin/audit`: who did what to whom, for administrators.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use backscroll_shard::audit::{AuditFilter, AuditPage};
use backscroll_shard::model::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{LIST_MAX, Query, Staff, page_limit};
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn admin_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which records of the audit log: those that all of it is true of.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Who did it: `user/`, `operator/` or `node/` and a name.
    #[param(
        nullable = false,
        min_length = 1,
        max_length = 128,
        example = "user/root"
    )]
    actor: Option<String>,
    /// What was done.
    #[param(
        nullable = false,
        min_length = 1,
        max_length = 32,
        example = "sanction.impose"
    )]
    action: Option<String>,
    /// To whom or to what.
    #[param(
        nullable = false,
        min_length = 1,
        max_length = 128,
        example = "user/mallory"
    )]
    subject: Option<String>,
    /// Then or later.
    #[param(nullable = false)]
    from: Option<Timestamp>,
    /// Before.
    #[param(nullable = false)]
    until: Option<Timestamp>,
    /// `nextCursor` of the page before.
    #[param(nullable = false, min_length = 1)]
    cursor: Option<String>,
    /// Most records.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

/// The audit log
///
/// Sanctions, moves of ranges, shards that were added, holds, archive jobs of operators, exports, starts of nodes with their
/// configuration; the newest first. `backscroll audit verify` tells whether it is what was written.
#[utoipa::path(
    get, path = "/admin/audit", tag = "staff", operation_id = "listAudit",
    params(AuditQuery),
    responses((status = 200, description = "A page of records", body = AuditPage), problems::ReadStaff),
)]
async fn list(
    Staff(_): Staff,
    State(app): State<Arc<App>>,
    Query(query): Query<AuditQuery>,
) -> Result<Answer<AuditPage>, Problem> {
    let limit = page_limit(query.limit, LIST_MAX)? as usize;
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        subject: query.subject,
        from: query.from,
        until: query.until,
    };
    let audit = app.store.audit();
    Ok(Answer(
        audit.list(&filter, query.cursor.as_deref(), limit).await?,
    ))
}
