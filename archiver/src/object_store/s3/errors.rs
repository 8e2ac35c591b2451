//! From the many ways in which S3 and its likes say no to [`ErrorKind`].

use std::error::Error;
use std::fmt::Display;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::object_store::error::{ErrorKind, Operation, StoreError};

/// The failure of `operation` on `subject`.
pub(super) fn failed<E>(
    operation: Operation,
    subject: impl Display,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (kind, detail) = match error {
        SdkError::TimeoutError(_) => (ErrorKind::Timeout, chain(error)),
        SdkError::ConstructionFailure(_) => (ErrorKind::Refused, chain(error)),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            (ErrorKind::Timeout, chain(error))
        }
        SdkError::ResponseError(_) => (ErrorKind::Damaged, chain(error)),
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let (code, message) = (service.err().code(), service.err().message());
            let detail = format!(
                "status {status}, {}: {}",
                code.unwrap_or("no code"),
                message.unwrap_or("no message")
            );
            let kind = kind_of(
                status,
                code.unwrap_or_default(),
                message.unwrap_or_default(),
            );
            (kind, detail)
        }
        // Credentials are looked for as part of sending.
        _ => (
            credentials_kind(error).unwrap_or(ErrorKind::Unavailable),
            chain(error),
        ),
    };
    StoreError::new(kind, operation, subject, detail)
}

/// What it is when there are no credentials to send the request with.
fn credentials_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<CredentialsError>() {
            None => cause = error.source(),
            Some(CredentialsError::CredentialsNotLoaded(_)) => return Some(ErrorKind::Denied),
            Some(CredentialsError::InvalidConfiguration(_)) => {
                return Some(ErrorKind::Misconfigured);
            }
            Some(_) => return Some(ErrorKind::Unavailable),
        }
    }
    None
}

/// By the error's code, and for codes of other makers by the status.
/// Source: Amazon S3 API reference, "Error responses"; the `XMinio` codes are `MinIO`'s. Garage says
/// `InvalidDigest` where Amazon says `BadDigest`, and has no code for a quota that is used up, only a message.
fn kind_of(status: u16, code: &str, message: &str) -> ErrorKind {
    match code {
        "AccessDenied" if message.contains("quota is reached") => ErrorKind::Full,
        "NoSuchKey" | "NoSuchUpload" | "NotFound" => ErrorKind::NotFound,
        "NoSuchBucket"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "RequestTimeTooSkewed" => ErrorKind::Misconfigured,
        // Amazon says some of these with status 400.
        "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch" => ErrorKind::Denied,
        "PreconditionFailed" => ErrorKind::AlreadyExists,
        "InvalidRange" => ErrorKind::OutOfRange,
        "NotImplemented" => ErrorKind::Unsupported,
        "BadDigest"
        | "InvalidDigest"
        | "IncompleteBody"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch" => ErrorKind::Damaged,
        "SlowDown"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded" => ErrorKind::Throttled,
        // An upload's completion may say `InternalError` after it has said status 200.
        "InternalError" | "RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict" => {
            ErrorKind::Unavailable
        }
        "QuotaExceeded"
        | "EntityTooLarge"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded" => ErrorKind::Full,
        _ => match status {
            301 | 307 => ErrorKind::Misconfigured,
            401 | 403 => ErrorKind::Denied,
            404 => ErrorKind::NotFound,
            408 | 409 => ErrorKind::Unavailable,
            412 => ErrorKind::AlreadyExists,
            416 => ErrorKind::OutOfRange,
            429 | 503 => ErrorKind::Throttled,
            501 => ErrorKind::Unsupported,
            507 => ErrorKind::Full,
            500..=599 => ErrorKind::Unavailable,
            _ => ErrorKind::Refused,
        },
    }
}

/// An error and its causes, each once: the SDK's own text says only which sort it is.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_before_the_status() {
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::Misconfigured),
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "RequestTimeTooSkewed", ErrorKind::Misconfigured),
            (503, "SlowDown", ErrorKind::Throttled),
            (400, "RequestTimeout", ErrorKind::Unavailable),
            (400, "ExpiredToken", ErrorKind::Denied),
            (200, "InternalError", ErrorKind::Unavailable),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable),
            (507, "XMinioStorageFull", ErrorKind::Full),
            (500, "", ErrorKind::Unavailable),
            (404, "", ErrorKind::NotFound),
            (400, "InvalidDigest", ErrorKind::Damaged),
            (400, "InvalidArgument", ErrorKind::Refused),
        ] {
            assert_eq!(kind_of(status, code, ""), kind, "{status} {code}");
        }
        let message = "Forbidden: Object quota is reached, maximum objects for this bucket: 0";
        assert_eq!(kind_of(403, "AccessDenied", message), ErrorKind::Full);
    }

    #[test]
    fn missing_credentials_are_not_a_broken_connection() {
        #[derive(Debug, thiserror::Error)]
        #[error("dispatch failure")]
        struct Dispatch(#[source] CredentialsError);

        let missing = Dispatch(CredentialsError::not_loaded("none configured"));
        assert_eq!(credentials_kind(&missing), Some(ErrorKind::Denied));
        let provider_down = CredentialsError::provider_timed_out(std::time::Duration::from_secs(1));
        assert_eq!(
            credentials_kind(&provider_down),
            Some(ErrorKind::Unavailable)
        );
        assert_eq!(
            credentials_kind(&std::io::Error::other("connection closed")),
            None
        );
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("connection refused");
        let outer = std::io::Error::other(inner);
        assert_eq!(chain(&outer), "connection refused");
    }
}
