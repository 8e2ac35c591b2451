//! What can go wrong with an object store, in terms its callers and its operators can act on.

use std::fmt;

/// The object store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A call that failed. It may have had its effect all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {subject}: {kind}: {detail}")]
pub struct StoreError {
    kind: ErrorKind,
    operation: Operation,
    subject: String,
    detail: String,
}

impl StoreError {
    /// `operation` on `subject` (a key or a prefix) failed. `detail` is for the log and for operators.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        operation: Operation,
        subject: impl fmt::Display,
        detail: impl fmt::Display,
    ) -> Self {
        Self {
            kind,
            operation,
            subject: subject.to_string(),
            detail: detail.to_string(),
        }
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was being done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The same error, seen from another operation that was made of this one.
    #[must_use]
    pub fn during(mut self, operation: Operation) -> Self {
        self.operation = operation;
        self
    }

    /// Whether the same call may succeed when it is simply made again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::{Damaged, Throttled, Timeout, Unavailable};
        matches!(self.kind, Throttled | Damaged | Unavailable | Timeout)
    }
}

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such object, or no such upload.
    NotFound,
    /// There is an object of other content under this key.
    AlreadyExists,
    /// The object is shorter than the range asked for.
    OutOfRange,
    /// The credentials are missing, wrong or expired, or do not allow this.
    Denied,
    /// The store, or this process's own limit, takes no more requests just now.
    Throttled,
    /// What came is not what was sent: the transfer broke off, or a checksum does not match.
    Damaged,
    /// The store does not answer, or says that it cannot just now.
    Unavailable,
    /// The call took longer than its deadline.
    Timeout,
    /// The disk is full or a quota is used up.
    Full,
    /// The store does not know this call, or one of its options.
    Unsupported,
    /// A setting is wrong: there is no such bucket or folder, it is elsewhere, or the clock is off.
    Misconfigured,
    /// The store refused the call for another reason.
    Refused,
}

impl ErrorKind {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::OutOfRange => "out_of_range",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Damaged => "damaged",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Full => "full",
            Self::Unsupported => "unsupported",
            Self::Misconfigured => "misconfigured",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "exists already with other content",
            Self::OutOfRange => "the object is shorter than that",
            Self::Denied => "denied",
            Self::Throttled => "too many requests",
            Self::Damaged => "damaged on the way",
            Self::Unavailable => "unavailable",
            Self::Timeout => "no answer in time",
            Self::Full => "no space left",
            Self::Unsupported => "not supported by this store",
            Self::Misconfigured => "wrong settings",
            Self::Refused => "refused",
        })
    }
}

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening it.
    Open,
    /// [`put`](super::ObjectStore::put)
    Put,
    /// [`get_range`](super::ObjectStore::get_range)
    GetRange,
    /// [`head`](super::ObjectStore::head)
    Head,
    /// [`list_page`](super::ObjectStore::list_page)
    List,
    /// [`delete`](super::ObjectStore::delete)
    Delete,
    /// [`deletion`](super::ObjectStore::deletion)
    Versioning,
    /// [`start_upload`](super::ObjectStore::start_upload)
    StartUpload,
    /// [`upload_part`](super::ObjectStore::upload_part)
    UploadPart,
    /// [`complete_upload`](super::ObjectStore::complete_upload)
    CompleteUpload,
    /// [`abort_upload`](super::ObjectStore::abort_upload)
    AbortUpload,
    /// [`unfinished_uploads`](super::ObjectStore::unfinished_uploads)
    ListUploads,
    /// [`list_parts`](super::ObjectStore::list_parts)
    ListParts,
    /// [`copy`](super::ObjectStore::copy)
    Copy,
    /// [`sign_put`](super::ObjectStore::sign_put), [`sign_part`](super::ObjectStore::sign_part) and
    /// [`sign_get`](super::ObjectStore::sign_get)
    Sign,
}

impl Operation {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Put => "put",
            Self::GetRange => "get_range",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Versioning => "versioning",
            Self::StartUpload => "start_upload",
            Self::UploadPart => "upload_part",
            Self::CompleteUpload => "complete_upload",
            Self::AbortUpload => "abort_upload",
            Self::ListUploads => "list_uploads",
            Self::ListParts => "list_parts",
            Self::Copy => "copy",
            Self::Sign => "sign",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', " "))
    }
}
