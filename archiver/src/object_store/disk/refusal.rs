//! Why a signed request is not answered with an object.

use http::StatusCode;

use super::super::error::{ErrorKind, StoreError};

/// A request that is not answered with an object.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The address was not signed here for this, or a header differs from what was signed.
    #[error("the address was altered, or the request is not the one that it was signed for")]
    Signature,
    /// The address was good once.
    #[error("the address has expired; ask for a new one")]
    Expired,
    /// There is no such object or upload.
    #[error("there is no such object, or its upload has ended")]
    NotFound,
    /// The object ends before the range begins.
    #[error("the object has {0} bytes; the range begins behind them")]
    Range(u64),
    /// The body was too slow or broke off.
    #[error("the body did not arrive in time or broke off")]
    Body,
    /// Too many bodies are received.
    #[error("too many uploads at once")]
    Busy,
    /// The folder fails.
    #[error(transparent)]
    Store(StoreError),
}

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Refusal {
    /// The status that a bucket would answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Signature | Self::Expired => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Body => StatusCode::REQUEST_TIMEOUT,
            Self::Busy | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound,
            _ => Self::Store(error),
        }
    }
}
