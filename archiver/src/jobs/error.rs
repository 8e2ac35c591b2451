//! Why a job did not get to its end.

use backscroll_shard::error::Error;
use backscroll_shard::tasks::Full;

use crate::object_store::StoreError;
use crate::segment::SegmentError;
use crate::terms::TermsError;

/// A job did not get to its end. What it had committed stays, and the next one goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A database, or a lease.
    #[error(transparent)]
    Store(#[from] Error),
    /// The object store.
    #[error("object store: {0}")]
    Objects(#[from] StoreError),
    /// A segment cannot be written or read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The terms of a segment cannot be read or written.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// What was read back is not what was to be stored; it was not published.
    #[error(
        "segment {0}: what was read back is not what was written; nothing was published or deleted"
    )]
    NotAsWritten(String),
    /// There is nothing to restore.
    #[error("{0}")]
    NothingArchived(String),
    /// Too many segments are being uploaded.
    #[error(transparent)]
    Uploads(#[from] Full),
    /// The process is ending.
    #[error("stopped: the process is ending")]
    Stopped,
}

/// A job's result.
pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;
