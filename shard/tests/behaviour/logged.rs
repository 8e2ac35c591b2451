//! What is logged as a warning or an error, for tests that cause it.

use backscroll_testkit::warnings;

/// A batch of writes was refused, or its shard did not answer.
pub(crate) const BATCH_FAILS: &str = "a batch was not committed";
/// The directory's database does not answer when a store is opened.
pub(crate) const NOT_REACHED: &str = "cannot be reached; going on without it";
/// It does not answer when the map is to be read anew.
pub(crate) const DIRECTORY_AWAY: &str = "the directory is away; going on with the map as it was";
/// A list of conversations lacks news of a shard that does not answer.
pub(crate) const LISTED_AS_THEY_WERE: &str = "large conversations are listed as they were";
/// The relay's map of ranges is older than a move, or a shard does not answer; it goes on with the next pass.
pub(crate) const LISTS_WAIT: &str = "conversation lists lag behind";
/// A task panicked.
pub(crate) const TASK_ENDS: &str = "a task ended; it is started again";
/// A shard's database does not answer.
pub(crate) const DATABASE_AWAY: &str = "the shard's database cannot do it now";
/// A transaction was repeated for locks until there was no time left.
pub(crate) const CONTENTION: &str = "a transaction met others too often";
/// The runner of a move had no time to finish within a freeze; it tries again.
pub(crate) const FREEZE_ENDED: &str = "a freeze was ended";
/// A replica does not answer, or lags behind.
pub(crate) const REPLICA_AWAY: &str = "a replica is passed over";

/// The test lets a shard's database, or its connections, be away for a while.
pub(crate) fn expect_outage() {
    for text in [BATCH_FAILS, LISTS_WAIT, DATABASE_AWAY, CONTENTION] {
        warnings::expect(text);
    }
}

/// The test moves ranges: lists wait for their owner's shard, and on a busy machine a freeze may be too short.
pub(crate) fn expect_move() {
    for text in [LISTS_WAIT, FREEZE_ENDED] {
        warnings::expect(text);
    }
}
