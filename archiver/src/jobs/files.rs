//! Collecting and verifying files of conversations.
//!
//! A file is collected once it has expired: it was never uploaded, rejected, or in no message for `media.unused_after`; or its
//! last message was deleted. Under the lease of its shard its row is first marked as removed (the step that can still be
//! refused: a message may use it by now), then its objects are deleted, then the row. The receipts of erasures are given after
//! that ([`super::collect`]). A crash leaves a row that is marked, and the next collection goes on (INV-ERASE).
//!
//! Objects that no row of any shard names, from checks that died, are deleted after `archive.gc_grace` (INV-OBJECT).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{Lease, check_lease};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::media;
use backscroll_shard::model::{Media, MediaState, Timestamp};
use backscroll_shard::node::Shard;
use backscroll_shard::owned::OwnedTransaction;
use futures_util::TryStreamExt as _;
use serde::Serialize;
use twox_hash::XxHash3_64;

use super::erase::owns;
use super::{ArchiveJobs, Result, STEP, transaction};
use crate::media::{KEY_PREFIX, UPLOAD_PREFIX, is_own_key};
use crate::metrics;
use crate::object_store::{ErrorKind, KeyPrefix, ObjectKey, Upload, transfer};

/// Files that are looked up at once.
const PAGE: usize = 256;

/// Most faults that are named one by one.
const NAMED_FAULTS: usize = 1000;

/// What a look at all files found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesReport {
    /// Files that are ready.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Smaller forms of pictures.
    pub variants: u64,
    /// Files of which an object is not there, or has another size: the first 1,000.
    pub faults: Vec<FileFault>,
    /// How many there are in all.
    pub faulty: u64,
    /// Objects that no row names, beyond their grace period.
    pub orphans: u64,
    /// Those that are within it.
    pub in_grace: u64,
}

/// A file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileFault {
    /// The file.
    pub media_id: MediaId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// The object: its own, or that of a smaller form.
    pub object: String,
    /// `missing` or `size`.
    pub fault: &'static str,
}

/// Objects that no row names.
#[derive(Debug, Default)]
pub(super) struct FileOrphans {
    pub(super) due: Vec<ObjectKey>,
    /// Hashes of the keys that rows name.
    named: HashSet<u64>,
    pub(super) in_grace: u64,
}

impl ArchiveJobs {
    /// Collects the expired files of the ranges that the lease is about; gives their number. With a dry run, counts them.
    pub(super) async fn collect_files(
        &self,
        shard: &Arc<Shard>,
        lease: Option<&Lease>,
        now: Timestamp,
    ) -> Result<u64> {
        let (mut collected, mut from) = (0, Timestamp(0));
        loop {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let page = media::expired(&mut connection, now, from, PAGE).await?;
            drop(connection);
            let before = collected;
            for file in &page {
                collected += match lease {
                    None => 1,
                    Some(lease) if owns(lease, file.conversation) => {
                        u64::from(self.collect_file(shard, lease, file, now).await?)
                    }
                    Some(_) => 0,
                };
            }
            let Some(last) = page.last().and_then(|file| file.expires_at) else {
                return Ok(collected);
            };
            if page.len() < PAGE {
                return Ok(collected);
            }
            // What is collected is not found again; what stays is passed over.
            let is_stuck = lease.is_none() || collected == before;
            from = if is_stuck {
                Timestamp(last.0 + 1)
            } else {
                from
            };
        }
    }

    async fn collect_file(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        file: &Media,
        now: Timestamp,
    ) -> Result<bool> {
        let removed = transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            let mut rows = OwnedTransaction::for_job(connection);
            media::remove_expired(&mut rows, file, now).await
        });
        if !removed.await? {
            return Ok(false);
        }
        if let Some(id) = &file.upload_id
            && let Ok(key) = ObjectKey::new(&*file.upload_key)
        {
            let id = id.clone();
            self.objects.abort_upload(&Upload { key, id }).await?;
        }
        let keys = std::iter::once(&*file.upload_key).chain(lasting_keys(file));
        for key in keys.filter_map(|key| ObjectKey::new(key).ok()) {
            self.objects.delete(&key).await?;
        }
        transaction(shard, async |connection| {
            check_lease(connection, lease).await?;
            media::forget(connection, file).await
        })
        .await?;
        let why = match file.state {
            MediaState::Removed => "deleted",
            _ => "unused",
        };
        metrics::MEDIA_COLLECTED.with([why]).increment(1);
        Ok(true)
    }

    /// The objects of files that no row of any shard names.
    pub(super) async fn file_orphans(&self, now: Timestamp) -> Result<FileOrphans> {
        let mut orphans = FileOrphans {
            named: self.named_files().await?,
            ..FileOrphans::default()
        };
        let grace = i64::try_from(self.settings.gc_grace.0.as_millis()).unwrap_or(i64::MAX);
        for prefix in [KEY_PREFIX, UPLOAD_PREFIX] {
            let Ok(prefix) = KeyPrefix::new(prefix) else {
                continue;
            };
            let mut listing = std::pin::pin!(transfer::list(self.objects.as_ref(), &prefix));
            while let Some(object) = listing.try_next().await? {
                let is_named = orphans.named.contains(&hash(object.key.as_str()));
                if is_named || !is_own_key(&object.key) {
                    continue;
                }
                if object.created_at.0 <= now.0 - grace {
                    orphans.due.push(object.key);
                } else {
                    orphans.in_grace += 1;
                }
            }
        }
        Ok(orphans)
    }

    /// Deletes objects that no row names, and gives up uploads in parts that none does; gives the number of both.
    pub(super) async fn delete_file_orphans(
        &self,
        orphans: &FileOrphans,
        now: Timestamp,
    ) -> Result<u64> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::MEDIA_ORPHANS.set(orphans.due.len() as f64);
        for key in &orphans.due {
            self.objects.delete(key).await?;
            metrics::MEDIA_COLLECTED.with(["orphan"]).increment(1);
        }
        let is_orphan =
            |key: &ObjectKey| is_own_key(key) && !orphans.named.contains(&hash(key.as_str()));
        let grace = self.settings.gc_grace.0;
        let given_up = transfer::abort_unfinished(self.objects.as_ref(), is_orphan, grace, now);
        let aborted = match given_up.await {
            Err(error) if error.kind() == ErrorKind::Unsupported => 0,
            aborted => aborted?,
        };
        Ok(orphans.due.len() as u64 + aborted)
    }

    /// Hashes of the keys that rows name, of all shards: eight bytes each, where a key has forty. Two keys with one hash keep
    /// an orphan, and delete nothing.
    async fn named_files(&self) -> Result<HashSet<u64>> {
        let mut named = HashSet::new();
        for shard in self.router.shards() {
            let mut after = None;
            loop {
                let page = files_after(shard, after).await?;
                let Some(last) = page.last() else { break };
                after = Some((last.conversation, Some(last.id)));
                for file in &page {
                    let is_uploading = matches!(file.state, MediaState::Pending);
                    let upload = is_uploading.then_some(&*file.upload_key);
                    let keys = upload.into_iter().chain(lasting_keys(file));
                    named.extend(keys.map(hash));
                }
            }
        }
        Ok(named)
    }

    /// Compares rows and objects of files, both ways. Changes nothing.
    ///
    /// # Errors
    /// When a shard or the object store cannot be read.
    pub async fn verify_files(&self, now: Timestamp) -> Result<FilesReport> {
        let orphans = self.file_orphans(now).await?;
        let mut report = FilesReport {
            orphans: orphans.due.len() as u64,
            in_grace: orphans.in_grace,
            ..FilesReport::default()
        };
        let map = self.router.map();
        for shard in self.router.shards() {
            let mut after = None;
            loop {
                let page = files_after(shard, after).await?;
                let Some(last) = page.last() else { break };
                after = Some((last.conversation, Some(last.id)));
                for file in &page {
                    // Rows of a range that has moved away are not this shard's any more.
                    if map.locate(file.conversation.owner_key()).shard == *shard.name() {
                        self.verify_file(file, &mut report).await?;
                    }
                }
            }
        }
        Ok(report)
    }

    async fn verify_file(&self, file: &Media, report: &mut FilesReport) -> Result<()> {
        let Some(object) = file
            .object_key
            .as_ref()
            .filter(|_| file.state.is_accepted())
        else {
            return Ok(());
        };
        report.files += 1;
        report.bytes += file.bytes;
        self.verify_object(file, (object, file.bytes), report)
            .await?;
        let keys = file.variant_keys.iter();
        for (keys, variant) in keys.flat_map(|keys| file.variants.iter().map(move |it| (keys, it)))
        {
            report.variants += 1;
            let object = (keys.of(variant.variant), variant.bytes);
            self.verify_object(file, object, report).await?;
        }
        Ok(())
    }

    async fn verify_object(
        &self,
        file: &Media,
        (object, bytes): (&str, u64),
        report: &mut FilesReport,
    ) -> Result<()> {
        let head = match ObjectKey::new(object) {
            Ok(key) => self.objects.head(&key).await,
            Err(_) => return Ok(()),
        };
        let fault = match head {
            Ok(meta) if meta.size == bytes => return Ok(()),
            Ok(_) => "size",
            Err(error) if error.kind() == ErrorKind::NotFound => "missing",
            Err(error) => return Err(error.into()),
        };
        report.faulty += 1;
        if report.faults.len() < NAMED_FAULTS {
            report.faults.push(FileFault {
                media_id: file.id,
                conversation_id: file.conversation,
                object: object.to_owned(),
                fault,
            });
        }
        Ok(())
    }
}

async fn files_after(
    shard: &Shard,
    after: Option<(ConversationId, Option<MediaId>)>,
) -> Result<Vec<Media>> {
    let mut connection = shard.reader(Instant::now() + STEP).await?;
    Ok(media::after(&mut connection, after, PAGE).await?)
}

/// The keys under which a file has objects, or will have.
fn lasting_keys(file: &Media) -> impl Iterator<Item = &str> {
    let variants = file.variant_keys.iter();
    let variants = variants.flat_map(|keys| [&*keys.small, &*keys.large]);
    file.object_key.as_deref().into_iter().chain(variants)
}

fn hash(key: &str) -> u64 {
    XxHash3_64::oneshot(key.as_bytes())
}
