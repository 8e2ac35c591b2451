//! `/search`: messages by their words.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::{SearchHas, SearchPage, SearchRequest};
use backscroll_shard::search::HITS_MAX;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Bearer, Query, page_limit};
use super::mounts::ChatRoutes;
use super::problem::Problem;
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![routes!(search)]
}

/// What to look for, and where.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SearchQuery {
    /// Words, all of which a message has to contain, also as parts of words; `"a phrase"`; and filters: `from:USER`,
    /// `in:CONVERSATION`, `before:DAY`, `after:DAY`, `has:link|image|voice|file`. Everything else is literal. Case, accents and
    /// width do not count. At most 1,024 bytes.
    #[param(nullable = false, example = "brulee from:bob after:2026-01-31")]
    q: Option<String>,
    /// Only in this conversation; without it, and without `in:`, in all of mine.
    #[param(nullable = false)]
    conversation_id: Option<ConversationId>,
    /// Only messages of this user.
    #[param(nullable = false)]
    from: Option<UserId>,
    /// Only messages from before this day (in UTC) or time.
    #[param(nullable = false, example = "2026-01-31")]
    before: Option<String>,
    /// Only messages from this day or time on.
    #[param(nullable = false, example = "2026-01-31T08:00:00Z")]
    after: Option<String>,
    /// Only messages with this.
    #[param(nullable = false, inline)]
    has: Option<SearchHas>,
    /// Most hits.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// `cursor` of the answer before.
    #[param(nullable = false, min_length = 1)]
    cursor: Option<String>,
}

/// Search messages
///
/// Exactly, in hot and archived messages alike. Within a conversation the newest hits come first; conversations come one after the
/// other, those with the latest activity first. A request looks at so many messages at most, and says how far it has come:
/// while there is a `cursor` there is more to look at, also when there are no hits. What cannot be read just now is named in
/// `unsearched`; where nothing could be read, the answer is an error.
#[utoipa::path(
    get, path = "/search", tag = "messages", operation_id = "search",
    params(SearchQuery),
    responses((status = 200, description = "The hits, or a first part of them", body = SearchPage), problems::Search),
)]
async fn search(
    me: Bearer,
    State(app): State<Arc<App>>,
    Query(query): Query<SearchQuery>,
) -> Result<Answer<SearchPage>, Problem> {
    let request = SearchRequest {
        q: query.q.unwrap_or_default(),
        conversation_id: query.conversation_id,
        from: query.from,
        before: query.before,
        after: query.after,
        has: query.has,
        limit: Some(page_limit(query.limit, HITS_MAX)?),
        cursor: query.cursor,
    };
    Ok(Answer(app.store.search(&me.caller, request).await?))
}
