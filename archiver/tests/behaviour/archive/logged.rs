//! What is logged as a warning or an error, for tests that cause it.

/// A job was stopped, or failed.
pub(crate) const JOB_ENDS_EARLY: &str = "an archive job did not get to its end";
/// Its end could not be written to the history, as its database was away.
pub(crate) const JOB_END_LOST: &str = "the end of an archive job could not be put down";
/// A frame is not what the index says.
pub(crate) const DAMAGED_FRAME: &str = "an archived frame";
/// A page needed such a frame.
pub(crate) const DAMAGED_PAGE: &str = "archived messages cannot be read";
/// `verify` has found a fault.
pub(crate) const VERIFY_FINDS: &str = "the archive is not as it should be";
/// A segment is registered as a part of the archive, and no row of the index names it.
pub(crate) const UNNAMED: &str = "the index names nothing of a segment";
/// The object store does not answer a read.
pub(crate) const ARCHIVE_AWAY: &str = "the archive cannot be read";
/// A shard's database does not answer.
pub(crate) const DATABASE_AWAY: &str = "the shard's database cannot do it now";
/// The relay's map of ranges is older than a move, or a database is away; it goes on later.
pub(crate) const LISTS_WAIT: &str = "conversation lists lag behind";
/// The terms of a segment are damaged.
pub(crate) const UNUSABLE_TERMS: &str = "terms cannot be used";
