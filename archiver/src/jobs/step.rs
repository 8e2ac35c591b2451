//! The steps of the jobs, between which tests let them die.

use std::sync::Arc;

/// The steps between which a job may die; tests make it do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It holds the lease.
    Leased,
    /// The intent row is committed.
    Intended,
    /// The object is uploaded.
    Uploaded,
    /// The object was read back and is right.
    ReadBack,
    /// The index names it.
    Published,
    /// A batch of hot rows is deleted.
    Deleted,
    /// All of a segment's hot rows are gone, its registry row does not say so yet.
    Emptied,
    /// The segment is settled.
    Settled,
    /// A segment's successor is published.
    Rewritten,
    /// An object may not be published any more.
    DeletionBegun,
    /// An object is deleted, its registry row not.
    ObjectDeleted,
    /// A batch of rows is hot again.
    Restored,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Leased,
        Self::Intended,
        Self::Uploaded,
        Self::ReadBack,
        Self::Published,
        Self::Deleted,
        Self::Emptied,
        Self::Settled,
        Self::Rewritten,
        Self::DeletionBegun,
        Self::ObjectDeleted,
        Self::Restored,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Intended => "intended",
            Self::Uploaded => "uploaded",
            Self::ReadBack => "read-back",
            Self::Published => "published",
            Self::Deleted => "deleted",
            Self::Emptied => "emptied",
            Self::Settled => "settled",
            Self::Rewritten => "rewritten",
            Self::DeletionBegun => "deletion-begun",
            Self::ObjectDeleted => "object-deleted",
            Self::Restored => "restored",
        }
    }
}

/// Is told of every step that is done.
pub type Hook = Arc<dyn Fn(Step) + Send + Sync>;
