//! What goes in: the caller, path segments, query strings, JSON bodies. Every way one of them can be wrong is answered
//! with a [`Problem`] that names the field and the rule.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::Body;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use backscroll_shard::ids::UserId;
use backscroll_shard::model::Caller;
use backscroll_shard::turns::Turn;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::problem::{Code, Problem};
use super::staff;
use super::state::App;
use crate::auth::AuthError;

/// Items in a page when no limit is given.
pub(super) const LIMIT_DEFAULT: u32 = 20;
/// Most conversations, members or notifications in a page.
pub(crate) const LIST_MAX: u32 = 100;
/// How much of a body that is too large is read and thrown away, so that its sender gets to see the answer.
const DISCARD_MAX_BYTES: usize = 1 << 20;

/// How much of an announced body is made room for before it comes.
const FIRST_BYTES: usize = 4096;

/// The header that makes a repeated POST safe.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header that says why content is read.
pub(super) const AUDIT_REASON: HeaderName = HeaderName::from_static("x-audit-reason");
/// Longest reason, in characters.
const AUDIT_REASON_CHARACTERS: usize = 500;

/// Until when a request is to be answered.
#[derive(Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

impl Deadline {
    fn of(parts: &Parts, app: &App) -> Instant {
        parts.extensions.get::<Self>().map_or_else(
            || Instant::now() + app.request_timeout,
            |deadline| deadline.0,
        )
    }
}

/// Where a request keeps its turn among its user's reads until the answer is made.
#[derive(Clone, Default)]
pub(super) struct TurnSlot(Arc<OnceLock<Turn>>);

impl TurnSlot {
    /// Waits for the turn of `user`, without a place among the requests worked on: others are not kept out meanwhile.
    pub(super) async fn wait(&self, app: &App, user: &UserId) -> Result<(), Problem> {
        let turn = app.away(app.store.turns().wait(user)).await;
        let turn = turn.flatten().ok_or_else(Problem::overloaded)?;
        let _ = self.0.set(turn); // a request has one caller
        Ok(())
    }
}

/// A caller with a valid token, whose turn it is if the request is a GET.
pub(super) struct Bearer {
    /// Who, and until when.
    pub(super) caller: Caller,
}

impl FromRequestParts<Arc<App>> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let deadline = Deadline::of(parts, app);
        let token = bearer_token(&parts.headers)?;
        let identity = app.auth.verify(token, deadline).await?;
        if let Some(slot) = parts.extensions.get::<TurnSlot>()
            && parts.method == Method::GET
        {
            slot.wait(app, &identity.user).await?;
        }
        Ok(Self {
            caller: Caller {
                user: identity.user,
                deadline,
            },
        })
    }
}

/// Somebody with a valid token whose role may call the route.
pub(super) struct Staff(pub(super) Caller);

impl FromRequestParts<Arc<App>> for Staff {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let deadline = Deadline::of(parts, app);
        let token = bearer_token(&parts.headers)?;
        let identity = app.auth.verify(token, deadline).await?;
        let path = parts.extensions.get::<MatchedPath>();
        let path = path.map_or("", MatchedPath::as_str);
        if !staff::admits(identity.staff, &parts.method, path) {
            return Err(Problem::new(
                Code::Forbidden,
                "this is for staff whose role allows it",
            ));
        }
        Ok(Self(Caller {
            user: identity.user,
            deadline,
        }))
    }
}

/// Why an administrator reads content: the header `X-Audit-Reason`.
pub(super) struct AuditReason(pub(super) String);

impl FromRequestParts<Arc<App>> for AuditReason {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(AUDIT_REASON).iter();
        let value = values.next().filter(|_| values.next().is_none());
        let text = value.and_then(|it| std::str::from_utf8(it.as_bytes()).ok());
        let text = text.map(str::trim);
        let text = text.filter(|it| (1..=AUDIT_REASON_CHARACTERS).contains(&it.chars().count()));
        let rule = || {
            Problem::invalid(format!(
                "X-Audit-Reason: say in this header, once, why this is read; 1 to {AUDIT_REASON_CHARACTERS} characters"
            ))
        };
        Ok(Self(text.ok_or_else(rule)?.to_owned()))
    }
}

pub(super) fn bearer_token(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Invalid("send exactly one Authorization header"));
    }
    let value = value
        .to_str()
        .map_err(|_| AuthError::Invalid("the Authorization header is not plain ASCII"))?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(AuthError::Missing),
    }
}

/// Segments of the path, percent-decoded.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(match error.into_kind() {
                    ErrorKind::DeserializeError { key, message, .. } => {
                        Problem::invalid(format!("{key} in the path: {message}"))
                    }
                    ErrorKind::InvalidUtf8InPathParam { key } => Problem::invalid(format!(
                        "{key} in the path: its percent-encoding is not UTF-8"
                    )),
                    ErrorKind::Message(message) => {
                        Problem::invalid(format!("in the path: {message}"))
                    }
                    other => Problem::internal(format!(
                        "a handler's path does not match its route: {other}"
                    )),
                })
            }
            Err(other) => Err(Problem::internal(other.body_text())),
        }
    }
}

/// The query string, with all its fields known and given once.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, Problem> {
        if percent_decode_str(parts.uri.query().unwrap_or_default())
            .decode_utf8()
            .is_err()
        {
            return Err(Problem::invalid(
                "query string: its percent-encoding is not UTF-8",
            ));
        }
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let rule = rejection
                    .source()
                    .map_or_else(|| rejection.body_text(), ToString::to_string);
                Err(Problem::invalid(format!(
                    "query string: {}",
                    in_words(&rule)
                )))
            }
        }
    }
}

/// What is wrong with a value, in the words of whoever gave it.
fn in_words(rule: &str) -> String {
    rule.replace(
        "invalid digit found in string",
        "it must be a whole number, 0 or more",
    )
    .replace(
        "cannot parse integer from empty string",
        "it must be a whole number, 0 or more",
    )
    .replace(
        "number too large to fit in target type",
        "the number is too large",
    )
}

/// A page's size as given, or the default.
pub(super) fn page_limit(given: Option<u32>, max: u32) -> Result<u32, Problem> {
    let limit = given.unwrap_or(LIMIT_DEFAULT);
    if (1..=max).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::invalid(format!("limit: a number from 1 to {max}")))
    }
}

/// The `Idempotency-Key` header, without the quotes it may have as a structured field.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::invalid("Idempotency-Key: send it once"));
    }
    let text = value
        .to_str()
        .map_err(|_| Problem::invalid("Idempotency-Key: printable ASCII only"))?
        .trim();
    let text = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text);
    if text.is_empty() || text.len() > 64 {
        return Err(Problem::invalid("Idempotency-Key: 1 to 64 bytes"));
    }
    Ok(Some(text))
}

/// A JSON object.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let given = json_body(request, app).await?;
        given
            .map(Self)
            .ok_or_else(|| Problem::invalid("the body is empty; send a JSON object"))
    }
}

/// A JSON object, or no body at all, which stands for the default.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(json_body(request, app).await?.unwrap_or_default()))
    }
}

/// The body's object; `None` when there is no body.
async fn json_body<T: DeserializeOwned>(request: Request, app: &App) -> Result<Option<T>, Problem> {
    let (parts, body) = request.into_parts();
    require_plain(&parts.headers)?;
    let declared = is_json(&parts.headers)?;
    let bytes = read(&parts, body, app).await?;
    match (bytes.is_empty(), declared) {
        (true, _) => Ok(None),
        (false, false) => Err(not_json()),
        (false, true) => parse(&bytes).map(Some),
    }
}

fn not_json() -> Problem {
    Problem::new(
        Code::UnsupportedMediaType,
        "send the body with `Content-Type: application/json`, in UTF-8",
    )
}

/// Bodies are not unpacked: one that is declared to be packed is refused before it is read.
fn require_plain(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if codings.all(is_plain) {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedMediaType,
        "send the body as it is, without `Content-Encoding`",
    ))
}

/// Whether the body is declared to be JSON. One that is declared to be something else is refused before it is read.
fn is_json(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return Ok(false);
    };
    let text = value.to_str().unwrap_or_default();
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let json = essence.trim().eq_ignore_ascii_case("application/json");
    let utf8 = match parameters.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    if json && utf8 && values.next().is_none() {
        Ok(true)
    } else {
        Err(not_json())
    }
}

async fn read(parts: &Parts, mut body: Body, app: &App) -> Result<Vec<u8>, Problem> {
    let announced = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let work = async {
        // What is announced may never come.
        let mut bytes = Vec::with_capacity(announced.min(app.max_body).min(FIRST_BYTES));
        let mut discarded = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Problem::invalid("the body broke off").because(error.to_string())
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if announced > app.max_body || bytes.len() + data.len() > app.max_body {
                discarded += data.len();
                if discarded > DISCARD_MAX_BYTES {
                    break;
                }
            } else {
                bytes.extend_from_slice(&data);
            }
        }
        if discarded > 0 || announced > app.max_body {
            return Err(Problem::new(
                Code::BodyTooLarge,
                format!("the body has more than {} bytes", app.max_body),
            ));
        }
        Ok(bytes)
    };
    let arrival = tokio::time::timeout_at(Deadline::of(parts, app).into(), work);
    match app.away(arrival).await.ok_or_else(Problem::overloaded)? {
        Ok(outcome) => outcome,
        Err(_) => Err(Problem::new(
            Code::RequestTimeout,
            "the body did not arrive in time",
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Serde would also take a list of the fields' values for an object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::invalid("the body is not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        if !error.is_data() {
            return Problem::invalid(format!("the body is not valid JSON: {error}"));
        }
        // Once more, for the field's name; only wrong bodies pay for it.
        match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(
            bytes,
        )) {
            Err(located) if located.path().iter().next().is_some() => {
                Problem::invalid(format!("{}: {}", located.path(), located.inner()))
            }
            _ => Problem::invalid(format!("the body: {error}")),
        }
    })
}
