//! What surrounds every request: its id, its deadline, the bound on how many there are, metrics, the access log, and
//! the text of problems.
//!
//! The access log has one line a request, with method, route (the pattern, not the address), status, milliseconds and
//! request id, and never a token, an address or a body. A line a request is expensive at tens of thousands a second, so
//! lines about requests that went well, or that the caller got wrong, are at level `debug` (target
//! `backscroll::access`); slow ones and failures are at `warn`, at most [`WARNINGS_PER_SECOND`]; internal errors are at
//! `error`, every one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONNECTION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use backscroll_shard::metrics::SharedString;
use backscroll_shard::tasks::panic_text;
use futures_util::FutureExt as _;
use tokio::time::timeout_at;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use super::extract::{Deadline, TurnSlot};
use super::mounts::{ADMIN, MOUNTS};
use super::problem::{self, Code, Problem};
use super::state::App;
use super::unread::ConnectionAnswers;
use crate::metrics;

/// The header that names a request, in both directions.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from a caller.
const REQUEST_ID_MAX_BYTES: usize = 64;
/// A request that takes longer is worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);
/// Most lines a second about slow requests and about failures that come in floods, such as a database being away.
const WARNINGS_PER_SECOND: u64 = 20;
/// The store keeps deadlines itself; this is how much later a request is given up if it does not.
const GRACE: Duration = Duration::from_millis(500);

/// The patterns of all routes: their names in metrics and logs.
pub(super) struct Patterns {
    routes: matchit::Router<Arc<Route>>,
    unmatched: Arc<Route>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self {
            routes: matchit::Router::default(),
            unmatched: Arc::new(Route::new("unmatched")),
        }
    }
}

impl Patterns {
    /// Adds a pattern, as the router has it.
    pub(super) fn add(&mut self, pattern: &str) {
        // The router refuses patterns that collide, before this is asked.
        let _ = self.routes.insert(pattern, Arc::new(Route::new(pattern)));
    }

    /// The route of `path`; `unmatched` when there is none.
    fn of(&self, path: &str) -> Arc<Route> {
        let found = self.routes.at(path);
        Arc::clone(found.map_or(&self.unmatched, |found| found.value))
    }
}

/// A route, and what is counted of it: looking for a metric by its labels costs more than counting.
struct Route {
    pattern: Arc<str>,
    counted: RwLock<HashMap<(&'static str, u16), Counted>>,
}

/// The metrics of a route's requests with one method and one status.
#[derive(Clone)]
struct Counted {
    requests: ::metrics::Counter,
    seconds: ::metrics::Histogram,
}

impl Route {
    fn new(pattern: &str) -> Self {
        Self {
            pattern: Arc::from(pattern),
            counted: RwLock::default(),
        }
    }

    fn counted(&self, method: &'static str, status: u16) -> Counted {
        let known = self.counted.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = known.get(&(method, status)) {
            return counted.clone();
        }
        drop(known);
        let (verb, route) = (
            SharedString::from(method),
            SharedString::from(Arc::clone(&self.pattern)),
        );
        let counted = Counted {
            requests: metrics::HTTP_REQUESTS.with([
                verb.clone(),
                route.clone(),
                status.to_string().into(),
            ]),
            seconds: metrics::HTTP_REQUEST_SECONDS.with([verb, route]),
        };
        let mut known = self.counted.write().unwrap_or_else(PoisonError::into_inner);
        known.entry((method, status)).or_insert(counted).clone()
    }
}

/// Around everything but the compression of answers.
///
/// # Errors
/// None.
pub(super) async fn observe<S>(
    app: Arc<App>,
    patterns: Arc<Patterns>,
    inner: S,
    mut request: Request,
) -> Result<Response, Infallible>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let start = Instant::now();
    let id = request_id(request.headers());
    let method = method_name(request.method());
    let route = patterns.of(request.uri().path());
    let http1 = request.version() < Version::HTTP_2;
    let answers = request
        .extensions()
        .get::<Arc<ConnectionAnswers>>()
        .cloned();
    request
        .extensions_mut()
        .insert(Deadline(start + app.request_timeout));
    let span = tracing::debug_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method,
        route = &*route.pattern
    );

    let has_room = answers.as_ref().is_none_or(|answers| answers.have_room());
    let mut response = match has_room {
        true => inner.oneshot(request).instrument(span).await?,
        false => unread().into_response(),
    };
    let held = answers.is_none_or(|answers| answers.hold(&mut response, http1));
    if !held {
        response = unread().into_response();
    }

    let problem = response
        .extensions_mut()
        .remove::<Problem>()
        .or_else(|| wordless(&response));
    if let Some(problem) = &problem {
        problem.write(&mut response, id.to_str().unwrap_or_default());
    }
    let headers = response.headers_mut();
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if http1 && app.is_draining() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let outcome = Outcome {
        method,
        route,
        status: response.status().as_u16(),
        took: start.elapsed(),
        id: &id,
    };
    outcome.count();
    outcome.log(problem.as_ref());
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
}

/// The client has to read what it was answered before it is answered more.
fn unread() -> Problem {
    Problem::new(
        Code::Overloaded,
        "too many answers wait to be read; read those, and ask again",
    )
}

/// The problem for a failure that a library answered without a word, such as a missing file of the documentation.
fn wordless(response: &Response) -> Option<Problem> {
    let empty = response.body().size_hint().exact() == Some(0);
    match response.status() {
        StatusCode::NOT_FOUND if empty => Some(problem::nothing_here()),
        _ => None,
    }
}

/// Around the routes: of those that do work at most so many at once, and none for ever; a panic is an answer.
///
/// # Errors
/// None.
pub(super) async fn guard<S>(
    app: Arc<App>,
    routes: S,
    mut request: Request,
) -> Result<Response, Infallible>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let mut worked_on = MOUNTS.iter().chain([&ADMIN]);
    if !worked_on.any(|mount| request.uri().path().starts_with(mount)) {
        return Ok(unless_panicked(routes.oneshot(request)).await);
    }
    let Some(_place) = app.admit() else {
        return Ok(Problem::overloaded().into_response());
    };
    let deadline = request.extensions().get::<Deadline>().map_or_else(
        || Instant::now() + app.request_timeout,
        |deadline| deadline.0,
    );
    let turn = TurnSlot::default(); // until the answer is made
    request.extensions_mut().insert(turn.clone());
    let work = unless_panicked(routes.oneshot(request));
    match timeout_at((deadline + GRACE).into(), work).await {
        Ok(response) => Ok(response),
        Err(_) => Ok(Problem::new(
            Code::DeadlineExceeded,
            "the deadline passed before the operation was done",
        )
        .into_response()),
    }
}

/// The answer, or what a panic is answered with.
async fn unless_panicked(work: impl Future<Output = Result<Response, Infallible>>) -> Response {
    // What was being worked on is dropped; what several requests share is left as after any cancellation.
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(panic) => Problem::internal(panic_text(&*panic)).into_response(),
    }
}

/// The caller's id for the request if it is a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_MAX_BYTES).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    if let Some(given) = headers.get(REQUEST_ID).filter(sane) {
        return given.clone();
    }
    let digits = format!("{:016x}", rand::random::<u64>());
    HeaderValue::try_from(digits).unwrap_or(HeaderValue::from_static("-"))
}

/// Methods are labels of metrics, so there must not be any number of them.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

struct Outcome<'a> {
    method: &'static str,
    route: Arc<Route>,
    status: u16,
    took: Duration,
    id: &'a HeaderValue,
}

impl Outcome<'_> {
    fn count(&self) {
        let counted = self.route.counted(self.method, self.status);
        counted.requests.increment(1);
        counted.seconds.record(self.took);
    }

    fn log(&self, problem: Option<&Problem>) {
        macro_rules! line {
            ($level:ident, $text:literal $(, $more:ident)?) => {
                tracing::$level!(
                    target: "backscroll::access",
                    request_id = self.id.to_str().unwrap_or_default(),
                    method = self.method,
                    route = &*self.route.pattern,
                    status = self.status,
                    ms = self.took.as_secs_f64() * 1000.0,
                    $($more,)?
                    $text
                )
            };
        }
        let code = problem.map(|problem| problem.code().name());
        let cause = problem.and_then(Problem::cause);
        let shed = matches!(
            problem.map(Problem::code),
            Some(Code::Overloaded | Code::ShuttingDown)
        );
        if problem.is_some_and(|problem| problem.code() == Code::Internal) {
            line!(error, "request failed", cause);
        } else if self.status >= 500 && !shed && may_warn() {
            line!(warn, "request could not be served", cause);
        } else if self.took >= SLOW && may_warn() {
            line!(warn, "slow request", code);
        } else {
            line!(debug, "request", code);
        }
    }
}

/// Whether this second has room for another warning. Those left out are still in the metrics.
fn may_warn() -> bool {
    /// The second in the upper half, how many lines it had in the lower.
    static WARNINGS: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let second = START.elapsed().as_secs() << 32;
    let before = WARNINGS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
        if state >> 32 == second >> 32 {
            (state & 0xffff_ffff < WARNINGS_PER_SECOND).then_some(state + 1)
        } else {
            Some(second | 1)
        }
    });
    before.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_request_ids_are_kept_and_others_replaced() {
        let given = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text).unwrap());
            request_id(&headers).as_bytes() == text
        };
        assert!(given(b"018f2c1e-7b3a:a.b_C"));
        assert!(given(&[b'a'; 64]));
        for wrong in [
            &b"a b"[..],
            b"",
            b"\"",
            b"a\xff",
            b"a,b",
            b"<script>",
            &[b'a'; 65],
        ] {
            assert!(!given(wrong), "{wrong:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_problem_with_its_text_for_the_log_only() {
        let broken = axum::routing::get(async || -> &str { panic!("the inside: {}", 7) });
        let router = axum::Router::new().route("/", broken);
        let request = Request::new(axum::body::Body::empty());
        let mut response = unless_panicked(router.oneshot(request)).await;
        let problem = response.extensions_mut().remove::<Problem>().unwrap();
        assert_eq!(problem.code(), Code::Internal);
        assert_eq!(problem.cause(), Some("panic: the inside: 7"));
        problem.write(&mut response, "id");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await;
        let text = String::from_utf8(body.unwrap().to_vec()).unwrap();
        assert!(
            text.contains("\"internal\"") && !text.contains("inside"),
            "{text}"
        );
    }

    #[test]
    fn a_flood_of_warnings_is_cut() {
        let allowed = (0..1000).filter(|_| may_warn()).count() as u64;
        assert!(
            (1..=2 * WARNINGS_PER_SECOND).contains(&allowed),
            "{allowed}"
        );
    }
}
