//! Problems (RFC 9457): the one place where errors become HTTP answers.
//!
//! [`Code`] is the table of everything that can be answered instead of a result; answers and the OpenAPI document are
//! both made from it. A [`Problem`] says which one it is and what happened this time. Its text is for the caller; what
//! only operators may see is the cause, which is logged once, with the request's id, where the answer is written
//! ([`super::observe`]).

mod document;
mod rate_limit;

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use backscroll_archiver::object_store::{ErrorKind, StoreError};
use backscroll_realtime::protocol::Return;
use backscroll_shard::error::{Error, MediaFault};
use backscroll_shard::guard::Refusal;
use backscroll_shard::sanctions::SanctionKind;
use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub use self::document::ProblemDocument;
pub(super) use self::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY};

use crate::auth::AuthError;

/// The media type of problems.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Longest `detail`, in characters: some repeat a piece of the request.
const DETAIL_MAX_CHARACTERS: usize = 300;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $name:literal, $status:ident, $title:literal, retry: $retry:expr;)+) => {
        /// What went wrong, for programs. The names are part of the interface and do not change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $code,)+
        }

        impl Code {
            /// All of them, in the order of their statuses.
            pub const ALL: &'static [Self] = &[$(Self::$code,)+];

            /// The name in `code`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)+ }
            }

            /// The HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)+ }
            }

            /// A short text that is always the same.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)+ }
            }

            /// What it means, and what to do.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$code => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// After how many milliseconds the same request may succeed; none when it has to change first.
            #[must_use]
            pub fn retry_after_ms(self) -> Option<u64> {
                match self { $(Self::$code => $retry,)+ }
            }

            /// The URI in `type`.
            #[must_use]
            pub fn type_uri(self) -> &'static str {
                match self { $(Self::$code => concat!("urn:problem-type:backscroll:", $name),)+ }
            }
        }
    };
}

codes! {
    /// The request breaks a rule that the detail names. Correct it.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request is not valid", retry: None;
    /// There is no token. Send one in the Authorization header.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A token is needed", retry: None;
    /// The token was valid once. Get a new one.
    TokenExpired = "token_expired", UNAUTHORIZED, "The token has expired", retry: None;
    /// The token is not one that this service accepts. The detail says why.
    TokenInvalid = "token_invalid", UNAUTHORIZED, "The token is not valid", retry: None;
    /// A moderator has muted the caller, who reads and does nothing that others would see. The detail says until when, and why.
    Muted = "muted", FORBIDDEN, "You are muted", retry: None;
    /// A moderator has shut the caller out until a time. The detail says until when, and why.
    Suspended = "suspended", FORBIDDEN, "You are suspended", retry: Some(60_000);
    /// A moderator has shut the caller out. The detail says why.
    Banned = "banned", FORBIDDEN, "You are banned", retry: None;
    /// The caller is not a member of the conversation, or there is no such conversation: the two are not told apart.
    NotAMember = "not_a_member", FORBIDDEN, "Not a member of the conversation", retry: None;
    /// The caller's role does not allow this, or the message is not theirs.
    Forbidden = "forbidden", FORBIDDEN, "Not allowed", retry: None;
    /// The other user does not accept this from the caller, or the caller blocks them. It is not said which.
    NotAccepted = "not_accepted", FORBIDDEN, "The other user does not accept this", retry: None;
    /// The signed address was altered, or the request is not the one that it was signed for. Send it as it was given.
    AddressInvalid = "address_invalid", FORBIDDEN, "The signed address does not allow this", retry: None;
    /// The signed address was valid once. Ask for a new one.
    AddressExpired = "address_expired", FORBIDDEN, "The signed address has expired", retry: None;
    /// The message, the member or the address does not exist.
    NotFound = "not_found", NOT_FOUND, "Not found", retry: None;
    /// The address exists, but not with this method. The Allow header lists those it has.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed", retry: None;
    /// The body did not arrive in time. Send it again.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive", retry: Some(0);
    /// The state of the conversation does not allow this.
    Conflict = "conflict", CONFLICT, "Conflict", retry: None;
    /// This client message id or Idempotency-Key was used before for something else, as the detail says. Use a new one for a new message or conversation.
    ConflictIdempotency = "conflict_idempotency", CONFLICT, "Idempotency key was used before", retry: None;
    /// Not all bytes of the file have arrived. Send the rest, then complete the upload.
    MediaNotUploaded = "media_not_uploaded", CONFLICT, "The upload is not complete", retry: None;
    /// The file's upload was not completed, or the file was rejected. Complete the upload, or upload another.
    MediaNotReady = "media_not_ready", CONFLICT, "The file is not ready", retry: None;
    /// A message uses the file. Delete the message, and the file goes with it.
    MediaInUse = "media_in_use", CONFLICT, "A message uses the file", retry: None;
    /// A configured limit is reached. The detail names it.
    LimitReached = "limit_reached", CONFLICT, "Limit reached", retry: None;
    /// The body is larger than allowed.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large", retry: None;
    /// The file is larger than one of its kind may be. The detail says how large that is.
    MediaTooLarge = "media_too_large", PAYLOAD_TOO_LARGE, "The file is too large", retry: None;
    /// A file of this kind may not have this type. Convert it, or send it as `kind: "file"`.
    MediaTypeNotAllowed = "media_type_not_allowed", UNSUPPORTED_MEDIA_TYPE, "The type is not allowed for this kind of file", retry: None;
    /// The body is not declared as plain JSON. Send `Content-Type: application/json`, and no `Content-Encoding`.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON", retry: None;
    /// The range begins behind the end of the object. The detail says how long it is.
    RangeNotSatisfiable = "range_not_satisfiable", RANGE_NOT_SATISFIABLE, "The range is not in the object", retry: None;
    /// There were too many of these. Slow down, and try again after the time that is given.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many", retry: Some(1000);
    /// Something failed here. Quote the request id when you report it.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error", retry: None;
    /// Archived messages that this needs are not what was archived. Trying again does not help until an operator has mended them. Other messages can be read.
    ArchiveDamaged = "archive_damaged", INTERNAL_SERVER_ERROR, "Archived messages are damaged", retry: None;
    /// There is more to do than can be done just now. Nothing was done. Try again, less often.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Overloaded", retry: Some(1000);
    /// The database that has this data does not answer, or the data is just being moved. Try again.
    ShardUnavailable = "shard_unavailable", SERVICE_UNAVAILABLE, "A part of the store is unavailable", retry: Some(1000);
    /// Archived messages are needed and the archive cannot be read just now. Try again.
    ArchiveUnavailable = "archive_unavailable", SERVICE_UNAVAILABLE, "The archive is unavailable", retry: Some(2000);
    /// Files can neither be uploaded nor read just now. Messages can. Try again.
    ObjectStoreUnavailable = "object_store_unavailable", SERVICE_UNAVAILABLE, "The object store is unavailable", retry: Some(2000);
    /// Uploads are scanned for viruses, and the scanner does not answer. Complete the upload again later.
    ScannerUnavailable = "scanner_unavailable", SERVICE_UNAVAILABLE, "The virus scanner is unavailable", retry: Some(5000);
    /// It is not known where the data is. Try again.
    DirectoryUnavailable = "directory_unavailable", SERVICE_UNAVAILABLE, "The directory is unavailable", retry: Some(2000);
    /// The keys that tokens are checked with could not be read yet. Try again.
    AuthUnavailable = "auth_unavailable", SERVICE_UNAVAILABLE, "Tokens cannot be checked", retry: Some(2000);
    /// This process is shutting down. Try again: another one answers.
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, "Shutting down", retry: Some(1000);
    /// It took too long. A write may or may not have happened: repeat it with the same client message id or Idempotency-Key.
    DeadlineExceeded = "deadline_exceeded", GATEWAY_TIMEOUT, "Took too long", retry: Some(1000);
}

impl Code {
    /// When the same request may succeed.
    #[must_use]
    pub fn comes_back(self) -> Return {
        match self {
            Self::Unauthenticated | Self::TokenExpired | Self::TokenInvalid => Return::NewToken,
            _ if self.retry_after_ms() == Some(0) => Return::AtOnce,
            _ if self.retry_after_ms().is_some() => Return::Later,
            _ => Return::Never,
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The kind of problem, for programs"))
            .enum_values(Some(Self::ALL.iter().map(|code| code.name())))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ProblemCode")
    }
}

/// A request that is not answered with a result.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    /// For the log only.
    cause: Option<String>,
    /// The rate limit that refused it.
    refusal: Option<Box<Refusal>>,
}

impl Problem {
    /// `code`, and what happened this time.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            cause: None,
            refusal: None,
        }
    }

    /// The request breaks a rule; `detail` says which and what to do.
    #[must_use]
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// An [`Code::Internal`] for the caller, with `cause` for the log.
    #[must_use]
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::new(
            Code::Internal,
            "something failed here; quote the request id when you report it",
        )
        .because(cause)
    }

    /// There are as many requests as there may be.
    #[must_use]
    pub fn overloaded() -> Self {
        Self::new(
            Code::Overloaded,
            "there are too many requests at once; nothing was done",
        )
    }

    /// The object store does not do it now; why is for the log.
    #[must_use]
    pub fn objects(error: &StoreError) -> Self {
        let code = match error.kind() {
            ErrorKind::Throttled => Code::Overloaded,
            _ => Code::ObjectStoreUnavailable,
        };
        let detail = "the store that has the files does not answer just now";
        Self::new(code, detail).because(error.to_string())
    }

    /// Adds what only the log may say.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Which one it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(&self) -> String {
        shorten(&self.detail).into_owned()
    }

    /// What only the log may say.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The name of the rate limit that refused it.
    #[must_use]
    pub fn rule(&self) -> Option<&'static str> {
        self.refusal.as_ref().map(|refusal| refusal.rule.name())
    }

    /// After how many milliseconds the same request may succeed; none when it has to change first.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        match &self.refusal {
            Some(refusal) => Some(rate_limit::retry_after_ms(refusal)),
            None => self.code.retry_after_ms(),
        }
    }

    /// Makes `response` the answer to the request with this id. Headers that are there already, such as `Allow`, stay.
    pub fn write(&self, response: &mut Response, request_id: &str) {
        let document = ProblemDocument {
            type_uri: self.code.type_uri(),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code,
            detail: &shorten(&self.detail),
            request_id,
            retry_after_ms: self.retry_after_ms(),
            rule: self.rule(),
        };
        *response.body_mut() = Json(document).into_response().into_body();
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH); // of the body that was there
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(wait) = self.retry_after_ms() {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000)));
        }
        if let Some(refusal) = &self.refusal {
            rate_limit::write(refusal, headers);
        }
        if let Some(challenge) = challenge(self.code) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
    }
}

/// RFC 6750, 3: no error is named when no token was given.
fn challenge(code: Code) -> Option<HeaderValue> {
    match code {
        Code::Unauthenticated => Some(HeaderValue::from_static("Bearer")),
        Code::TokenExpired => Some(HeaderValue::from_static(
            r#"Bearer error="invalid_token", error_description="the token has expired""#,
        )),
        Code::TokenInvalid => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
        _ => None,
    }
}

fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(DETAIL_MAX_CHARACTERS) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// Carries the problem to [`super::observe`], which knows the request's id and writes the body.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl Code {
    fn of(sanction: SanctionKind) -> Self {
        match sanction {
            SanctionKind::Mute => Self::Muted,
            SanctionKind::Suspend => Self::Suspended,
            SanctionKind::Ban => Self::Banned,
            SanctionKind::Revoke => Self::TokenInvalid,
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Missing => Code::Unauthenticated,
            AuthError::Expired => Code::TokenExpired,
            AuthError::Invalid(_) => Code::TokenInvalid,
            AuthError::KeysUnavailable => Code::AuthUnavailable,
            AuthError::Sanctioned(ref sanctioned) => Code::of(sanctioned.kind),
        };
        Self::new(code, error.to_string())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let shown = |code| Self::new(code, error.to_string());
        let hidden =
            |code: Code, detail: &'static str| Self::new(code, detail).because(error.to_string());
        match &error {
            Error::Invalid(_) => shown(Code::InvalidRequest),
            Error::NotFound(_) => shown(Code::NotFound),
            Error::NotMember => shown(Code::NotAMember),
            Error::Forbidden(_) => shown(Code::Forbidden),
            Error::Sanctioned(sanctioned) => shown(Code::of(sanctioned.kind)),
            Error::NotAccepted => shown(Code::NotAccepted),
            Error::IdempotencyConflict(_) => shown(Code::ConflictIdempotency),
            Error::Conflict(_) => shown(Code::Conflict),
            Error::Media(MediaFault::NotReady) => shown(Code::MediaNotReady),
            Error::Media(MediaFault::InUse) => shown(Code::MediaInUse),
            Error::LimitReached { .. } => shown(Code::LimitReached),
            Error::RateLimited(refusal) => Self {
                refusal: Some(refusal.clone()),
                ..shown(Code::RateLimited)
            },
            Error::Overloaded(_) => hidden(
                Code::Overloaded,
                "there is more to write than can be taken just now; nothing was written",
            ),
            Error::SearchesFull => shown(Code::Overloaded),
            Error::ShardUnavailable(_)
            | Error::WrongDatabase(_)
            | Error::NotOwner(_)
            | Error::Busy(_)
            | Error::LeaseLost(_)
            | Error::Interrupted(_)
            | Error::Contention(_)
            | Error::DatabaseUnavailable(_) => hidden(
                Code::ShardUnavailable,
                "the part of the store that has this data does not answer just now",
            ),
            Error::DeadlineExceeded => shown(Code::DeadlineExceeded),
            Error::ArchiveUnavailable => shown(Code::ArchiveUnavailable),
            Error::ArchiveDamaged(_) => hidden(
                Code::ArchiveDamaged,
                "archived messages that this needs cannot be read until an operator has mended them",
            ),
            Error::DirectoryUnavailable(_) => hidden(
                Code::DirectoryUnavailable,
                "it is not known just now where the data is",
            ),
            Error::Closing => shown(Code::ShuttingDown),
            // Also what the store may add: an error nobody thought of here is not shown to anybody.
            _ => Self::internal(error.to_string()),
        }
    }
}

/// For addresses that do not exist.
pub(super) async fn not_found() -> Problem {
    nothing_here()
}

pub(super) fn nothing_here() -> Problem {
    Problem::new(
        Code::NotFound,
        "there is nothing at this address; /openapi.json lists what there is",
    )
}

/// For methods that an address does not have. The router adds the `Allow` header.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "this address does not have this method; the Allow header lists those it has",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use backscroll_shard::error::StatementFault;

    use super::*;

    #[test]
    fn codes_are_told_apart_and_say_when_to_retry() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for &code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(
                !code.meaning().is_empty() && !code.meaning().contains("  "),
                "{:?}",
                code.meaning()
            );
            if code.status() == StatusCode::SERVICE_UNAVAILABLE {
                assert!(code.retry_after_ms().is_some(), "{code:?}");
            }
        }
        assert!(
            Code::ALL.is_sorted_by_key(|code| code.status()),
            "the table is in the order of statuses"
        );
    }

    #[test]
    fn nothing_internal_is_shown() {
        let shard = || backscroll_shard::ids::ShardName::new("secret-shard").unwrap();
        let errors = [
            Error::Overloaded(shard()),
            Error::ShardUnavailable(shard()),
            Error::NotOwner(shard()),
            Error::DirectoryUnavailable("10.0.0.7 secret refused".into()),
            Error::DatabaseUnavailable("secret host".into()),
            Error::Contention("secret table".into()),
            Error::Statement {
                fault: StatementFault::Other,
                words: "secret value".into(),
            },
            Error::Unexpected("secret state"),
            Error::ArchiveDamaged("secret segment".into()),
            Error::Busy("secret job".into()),
            Error::LeaseLost(shard()),
        ];
        for error in errors {
            let problem = Problem::from(error);
            assert!(!problem.detail.contains("secret"), "{problem:?}");
            assert!(problem.cause().unwrap().contains("secret"), "{problem:?}");
        }
    }

    #[test]
    fn long_details_are_cut_between_characters() {
        assert_eq!(shorten("é"), "é");
        let long = "é".repeat(10_000);
        assert_eq!(shorten(&long).chars().count(), DETAIL_MAX_CHARACTERS + 1);
    }
}
