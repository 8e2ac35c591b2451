//! Collecting objects that nothing names (INV-OBJECT).
//!
//! Three sorts of them: segments whose job died before they were published, segments that were superseded, and objects
//! that no shard has ever heard of. Terms go with their segment, before it. Each is kept for a grace period: `archive.gc_grace`, and for the first two, which may
//! hold what was deleted since, at most half of `archive.erase_within`. Then, under the lease of a shard, its registry row is
//! first taken out of every state in which it could be published (the step that can still be refused), then the object
//! is deleted, then the row. A crash in between leaves a row that says `deleting`, and the next collection goes on.
//!
//! Files of conversations are collected before erasures get their receipts ([`super::files`]).
//!
//! Every shard must answer: an object that a shard might name is never deleted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive::{
    self, Generation, Lease, SegmentId, SegmentRecord, SegmentState, check_lease,
};
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::{ArchiveJobs, Order, Result, STEP, ShardOutcome, Step, transaction};
use crate::metrics;
use crate::object_store::{ErrorKind, KeyPrefix, ObjectKey, transfer};
use crate::segment::{KEY_PREFIX, object_key, segment_of};
use crate::terms::segment_of_terms;

/// Most segments looked up at once.
const PAGE: usize = 1000;

/// How long the history of jobs is kept: a year.
const HISTORY: Duration = Duration::from_secs(366 * 86_400);

/// What a collection did, or with a dry run would do, on one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectFigures {
    /// Segments whose job died, beyond their grace period.
    pub abandoned: u64,
    /// Superseded segments beyond their grace period.
    pub superseded: u64,
    /// Objects that no shard has heard of, beyond their grace period.
    pub orphans: u64,
    /// Of all these, those whose objects were deleted.
    pub deleted: u64,
    /// Segments and objects that are kept until their grace period ends.
    pub in_grace: u64,
    /// Unfinished uploads that were given up.
    pub uploads: u64,
    /// Files of conversations that were collected, with objects that no row names.
    pub files: u64,
    /// Erasures that got their receipt.
    pub erased: u64,
}

impl ArchiveJobs {
    /// Deletes objects that nothing names and whose grace period is over; with `dry_run`, only counts them.
    ///
    /// # Errors
    /// When a shard or the object store cannot be read.
    pub async fn collect(
        &self,
        order: &Order,
        dry_run: bool,
    ) -> Result<Vec<ShardOutcome<CollectFigures>>> {
        let now = self.now(order).await?;
        let mut orphans = self.orphans(now).await?;
        let mut files = self.file_orphans(now).await?;
        let mut outcomes = Vec::new();
        for shard in self.shards(order)? {
            // The first shard sees to them.
            let (orphans, files) = (std::mem::take(&mut orphans), std::mem::take(&mut files));
            if dry_run {
                let mut figures = CollectFigures::default();
                self.due(&shard, now, &mut figures).await?;
                figures.orphans = (orphans.due.len() + orphans.terms.len()) as u64;
                figures.in_grace += orphans.in_grace + files.in_grace;
                figures.files = self.collect_files(&shard, None, now).await?;
                figures.files += files.due.len() as u64;
                outcomes.push(ShardOutcome {
                    shard: shard.name().clone(),
                    figures,
                    error: None,
                });
                continue;
            }
            let work = async |lease: &Lease, figures: &mut CollectFigures| {
                figures.in_grace = orphans.in_grace + files.in_grace;
                transaction(&shard, async |connection| {
                    check_lease(connection, lease).await?;
                    archive::believe_no_future(connection).await
                })
                .await?;
                self.supersede_unnamed(&shard, lease).await?;
                self.adopt(&shard, lease, &orphans.due, figures).await?;
                for id in &orphans.terms {
                    self.delete_terms(*id).await?;
                    figures.orphans += 1;
                    figures.deleted += 1;
                }
                figures.files = self.collect_files(&shard, Some(lease), now).await?;
                figures.files += self.delete_file_orphans(&files, now).await?;
                self.collect_shard(&shard, lease, now, figures).await
            };
            outcomes.push(self.job(&shard, ("gc", order), work).await);
        }
        Ok(outcomes)
    }

    /// How long an object that nothing names any more is kept for who is reading it, in milliseconds.
    fn known_grace(&self) -> i64 {
        let grace = self
            .settings
            .gc_grace
            .0
            .min(self.settings.erase_within.0 / 2);
        i64::try_from(grace.as_millis()).unwrap_or(i64::MAX)
    }

    fn grace(&self) -> i64 {
        i64::try_from(self.settings.gc_grace.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// The registered segments whose objects may be deleted now, by the holder of the lease: what is still being written is
    /// the work of a job that died.
    async fn due(
        &self,
        shard: &Shard,
        now: Timestamp,
        figures: &mut CollectFigures,
    ) -> Result<Vec<SegmentRecord>> {
        let mut due = Vec::new();
        let over = Timestamp(now.0 - self.known_grace());
        let limits = [
            (SegmentState::Deleting, Timestamp::MAX),
            (SegmentState::Superseded, over),
            (SegmentState::Writing, over),
        ];
        for (state, until) in limits {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let all = archive::segments_in(&mut connection, state, Timestamp::MAX, PAGE).await?;
            let (old, young): (Vec<_>, Vec<_>) = all
                .into_iter()
                .partition(|record| record.changed_at <= until);
            figures.in_grace += young.len() as u64;
            match state {
                SegmentState::Writing => figures.abandoned += old.len() as u64,
                _ => figures.superseded += old.len() as u64,
            }
            due.extend(old);
        }
        Ok(due)
    }

    async fn collect_shard(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        now: Timestamp,
        figures: &mut CollectFigures,
    ) -> Result<()> {
        loop {
            let mut counted = CollectFigures::default();
            let due = self.due(shard, now, &mut counted).await?;
            let mut deleted = 0;
            for record in &due {
                deleted += u64::from(self.delete_segment(shard, lease, record).await?);
            }
            figures.deleted += deleted;
            figures.abandoned += counted.abandoned;
            figures.superseded += counted.superseded;
            if deleted == 0 {
                figures.in_grace += counted.in_grace;
                break;
            }
        }
        figures.erased = transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            archive::forget_jobs(connection, HISTORY).await?;
            archive::finish_erasures(connection, now).await
        })
        .await?;
        let is_segment = |key: &ObjectKey| key.as_str().starts_with(KEY_PREFIX);
        let grace = self.settings.gc_grace.0;
        match transfer::abort_unfinished(self.objects.as_ref(), is_segment, grace, now).await {
            Ok(aborted) => figures.uploads = aborted,
            // Such a store removes them by a rule of its own, or has none.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Deletes a segment's object, unless a shard names it after all.
    async fn delete_segment(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        record: &SegmentRecord,
    ) -> Result<bool> {
        // Looked at first: what another shard names must not even be marked.
        if self.is_named_elsewhere(shard, record.id).await? {
            return Ok(false);
        }
        let begun = transaction(shard, async |connection| {
            let now = check_lease(connection, lease).await?;
            archive::begin_deletion(connection, record, now).await
        });
        if !begun.await? {
            return Ok(false);
        }
        self.passed(Step::DeletionBegun);
        self.delete_terms(record.id).await?;
        self.objects.delete(&object_key(record.id)).await?;
        self.passed(Step::ObjectDeleted);
        transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            archive::forget_segment(connection, record.id).await
        })
        .await?;
        metrics::COLLECTED.increment(1);
        Ok(true)
    }

    async fn is_named_elsewhere(&self, home: &Shard, id: SegmentId) -> Result<bool> {
        for shard in self
            .router
            .shards()
            .filter(|shard| shard.name() != home.name())
        {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            if archive::is_named(&mut connection, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The objects under the archive's prefix that no shard has registered or names.
    pub(super) async fn orphans(&self, now: Timestamp) -> Result<Orphans> {
        let mut orphans = Orphans::default();
        let Ok(prefix) = KeyPrefix::new(KEY_PREFIX) else {
            return Ok(orphans);
        };
        let registered = self.registered().await?;
        let mut listing = std::pin::pin!(transfer::list(self.objects.as_ref(), &prefix));
        while let Some(object) = listing.try_next().await? {
            orphans.listed += 1;
            orphans.bytes += object.size;
            let terms_of = segment_of_terms(&object.key);
            let Some(id) = segment_of(&object.key).or(terms_of) else {
                orphans.foreign += 1;
                continue;
            };
            orphans.of_terms += u64::from(terms_of.is_some());
            if registered.contains(&id) || self.is_known(id).await? {
                continue;
            }
            if terms_of.is_some() {
                // They may be of what was deleted since, and are built again where they are not.
                if object.created_at.0 <= now.0 - self.known_grace() {
                    orphans.terms.push(id);
                } else {
                    orphans.in_grace += 1;
                }
            } else if object.created_at.0 <= now.0 - self.grace() {
                orphans.due.push((id, object.size));
            } else {
                orphans.in_grace += 1;
            }
        }
        Ok(orphans)
    }

    /// Every registered segment, of all shards.
    async fn registered(&self) -> Result<HashSet<SegmentId>> {
        let mut all = HashSet::new();
        for shard in self.router.shards() {
            let mut after = None;
            loop {
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                let page = archive::segments_after(&mut connection, after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                all.extend(page.iter().map(|record| record.id));
            }
        }
        Ok(all)
    }

    async fn is_known(&self, id: SegmentId) -> Result<bool> {
        for shard in self.router.shards() {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            if archive::segment(&mut connection, id).await?.is_some()
                || archive::is_named(&mut connection, id).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Segments that are registered as parts of the archive and that no row of the index names are none any more: they are collected
    /// as if they had been written anew. There are none, unless something took their names away without saying so.
    async fn supersede_unnamed(&self, shard: &Shard, lease: &Lease) -> Result<()> {
        let mut after = None;
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let page = archive::segments_after(&mut connection, after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            let unnamed = archive::unnamed(&mut connection, after, last.id).await?;
            after = Some(last.id);
            drop(connection);
            for id in unnamed {
                tracing::warn!(shard = %shard.name(), segment = %id, "the index names nothing of a segment; it is collected");
                transaction(shard, async |connection| {
                    let now = check_lease(connection, lease).await?;
                    if !archive::is_named(connection, id).await? {
                        archive::supersede(connection, id, now).await?;
                    }
                    Ok(())
                })
                .await?;
            }
        }
    }

    /// Registers orphans on a shard as to be deleted.
    async fn adopt(
        &self,
        shard: &Shard,
        lease: &Lease,
        orphans: &[(SegmentId, u64)],
        figures: &mut CollectFigures,
    ) -> Result<()> {
        for (id, bytes) in orphans {
            transaction(shard, async |connection| {
                let now = check_lease(connection, lease).await?;
                let record = SegmentRecord {
                    id: *id,
                    generation: Generation(0), // before every receipt
                    state: SegmentState::Deleting,
                    bytes: *bytes,
                    messages: 0,
                    created_at: now,
                    changed_at: now,
                };
                archive::register_segment(connection, &record).await
            })
            .await?;
            figures.orphans += 1;
        }
        Ok(())
    }
}

/// What a listing of the bucket found beside the registered segments.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Objects under the archive's prefix.
    pub(super) listed: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Those of them that are terms of segments.
    pub(super) of_terms: u64,
    /// Objects whose keys are neither those of segments nor of their terms.
    pub(super) foreign: u64,
    /// Segments that nobody knows, beyond their grace period, with their sizes.
    pub(super) due: Vec<(SegmentId, u64)>,
    /// Segments that nobody knows and that have terms, beyond their grace period.
    pub(super) terms: Vec<SegmentId>,
    /// Those that are within it.
    pub(super) in_grace: u64,
}
