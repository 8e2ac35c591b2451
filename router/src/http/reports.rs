//! `/messages/{messageId}/report`, and `/admin/reports`: what readers tell moderators.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_shard::audit::{Act, Action, Reference};
use backscroll_shard::ids::{ConversationId, MessageId, ReportId, UserId};
use backscroll_shard::model::Timestamp;
use backscroll_shard::reports::{
    NewReport, Report, ReportFilter, ReportPage, ReportState, Resolution,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{AuditReason, Bearer, Json, LIST_MAX, Path, Query, Staff, page_limit};
use super::mounts::ChatRoutes;
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![routes!(report)]
}

pub(super) fn admin_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(resolve))
}

/// What came of a report.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Reported {
    /// The report.
    report_id: ReportId,
    /// When the message was reported.
    reported_at: Timestamp,
}

/// Report a message
///
/// To the moderators, with what it says now: an edit or a deletion afterwards hides nothing from them. Reporting it again gives the
/// first report. At most 100 reports of a user are open at once.
#[utoipa::path(
    post, path = "/messages/{messageId}/report", tag = "messages", operation_id = "reportMessage",
    params(("messageId" = MessageId, Path)),
    request_body(content = NewReport, example = json!({"reason": "spam", "note": "The same in three groups"})),
    responses(
        (status = 201, description = "It is reported", body = Reported),
        (status = 200, description = "It was reported before", body = Reported),
        problems::Report,
    ),
)]
async fn report(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MessageId>,
    Json(new): Json<NewReport>,
) -> Result<(StatusCode, Answer<Reported>), Problem> {
    let (report, is_new) = app.store.report(&me.caller, id, &new).await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let reported = Reported {
        report_id: report.id,
        reported_at: report.reported_at,
    };
    Ok((status, Answer(reported)))
}

/// Which reports: those that all of it is true of.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReportsQuery {
    /// How far they are.
    #[param(nullable = false)]
    state: Option<ReportState>,
    /// The conversation of the message.
    #[param(nullable = false)]
    conversation_id: Option<ConversationId>,
    /// Who sent the message.
    #[param(nullable = false)]
    user_id: Option<UserId>,
    /// `nextCursor` of the page before.
    #[param(nullable = false, min_length = 1)]
    cursor: Option<String>,
    /// Most reports.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

/// Reports
///
/// The newest first, with the messages as they were reported. It is recorded in the audit log that they were read, and why.
#[utoipa::path(
    get, path = "/admin/reports", tag = "staff", operation_id = "listReports",
    params(ReportsQuery, ("X-Audit-Reason" = String, Header, description = "Why they are read. 1 to 500 characters", min_length = 1)),
    responses((status = 200, description = "A page of them", body = ReportPage), problems::ReadStaff),
)]
async fn list(
    Staff(caller): Staff,
    AuditReason(reason): AuditReason,
    State(app): State<Arc<App>>,
    Query(query): Query<ReportsQuery>,
) -> Result<Answer<ReportPage>, Problem> {
    let limit = page_limit(query.limit, LIST_MAX)? as usize;
    let details = json!({
        "reports": query.state, "conversationId": query.conversation_id, "userId": query.user_id, "cursor": query.cursor,
    });
    let act = Act::new(Reference::user(&caller.user), Action::ContentRead, None);
    let act = act.because(&reason).with(details);
    let filter = ReportFilter {
        state: query.state,
        conversation: query.conversation_id,
        user: query.user_id,
    };
    let page = app.store.reports();
    let page = page.list(&filter, query.cursor.as_deref(), limit).await?;
    app.store.audit().append(&act).await?; // before anything is shown
    Ok(Answer(page))
}

/// Resolve a report
///
/// It says what was decided, and is recorded in the audit log. It does nothing to the message or its sender: that is done by the calls
/// that delete messages and impose sanctions. The message as it was reported is kept for 90 days more.
#[utoipa::path(
    post, path = "/admin/reports/{reportId}/resolve", tag = "staff", operation_id = "resolveReport",
    params(("reportId" = ReportId, Path)),
    request_body(content = Resolution, example = json!({"verdict": "sanctioned", "note": "Muted for a day"})),
    responses((status = 200, description = "The report", body = Report), problems::Resolve),
)]
async fn resolve(
    Staff(caller): Staff,
    State(app): State<Arc<App>>,
    Path(id): Path<ReportId>,
    Json(resolution): Json<Resolution>,
) -> Result<Answer<Report>, Problem> {
    let reports = app.store.reports();
    Ok(Answer(
        reports.resolve(&caller.user, id, &resolution).await?,
    ))
}
