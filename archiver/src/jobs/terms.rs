//! The index of terms that searches use ([`crate::terms`]): written with segments and deleted with them; built, verified and
//! dropped for those that are there.
//!
//! Building holds the lease of the shard, so that no segment is written anew or collected meanwhile: no terms of erased texts are left
//! behind (INV-ERASE). Terms that a process stores after it has lost its lease, of a segment that is gone by then, are collected as
//! those of a segment that nobody knows. A crash leaves the terms that were stored; building again goes on with the others.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{self, Lease, SegmentId, check_lease};
use backscroll_shard::node::Shard;
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use serde::Serialize;

use super::verify::{Problem, next_segment};
use super::{ArchiveError, ArchiveJobs, Order, Progress, Result, STEP, ShardOutcome, transaction};
use crate::object_store::{ErrorKind, KeyPrefix, StoreError, transfer};
use crate::segment::{KEY_PREFIX, object_key};
use crate::terms::reader::{Directory, Section};
use crate::terms::writer::TermsWriter;
use crate::terms::{TermsError, all_terms_keys, segment_of_terms, terms_key};

/// Most problems that are told one by one.
const PROBLEMS: usize = 1000;

/// What building did on one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildFigures {
    /// Segments that the shard's index names.
    pub segments: u64,
    /// Of these, those whose terms were written: there were none, or they were damaged.
    pub built: u64,
    /// Bytes of these terms.
    pub bytes: u64,
    /// Segments that could not be read, and have no terms therefore.
    pub unreadable: u64,
}

/// What came of verifying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TermsReport {
    /// Segments that the indexes name.
    pub segments: u64,
    /// Those with terms.
    pub with_terms: u64,
    /// Bytes of the terms.
    pub bytes: u64,
    /// Those without; searches read them.
    pub missing: u64,
    /// Terms that are not those of their segment: the first of them.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
}

/// What is stored of a segment's terms.
enum Stored {
    Missing,
    Damaged(TermsError),
    Whole { sections: Vec<Section>, bytes: u64 },
}

impl ArchiveJobs {
    /// Stores the terms of a segment.
    pub(super) async fn put_terms(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        let content = stream::iter([Ok(bytes)]);
        let key = terms_key(segment);
        Ok(transfer::put_stream(self.objects.as_ref(), &key, content).await?)
    }

    /// Deletes the terms of a segment, of whatever version.
    pub(super) async fn delete_terms(&self, segment: SegmentId) -> Result<()> {
        for key in all_terms_keys(segment) {
            self.objects.delete(&key).await?;
        }
        Ok(())
    }

    /// Writes the terms of segments that have none, or damaged ones.
    ///
    /// # Errors
    /// When there is no such shard.
    pub async fn build_terms(
        &self,
        order: &Order,
        progress: &Progress,
    ) -> Result<Vec<ShardOutcome<BuildFigures>>> {
        let mut outcomes = Vec::new();
        for shard in self.shards(order)? {
            progress.update(|now| {
                now.shard = Some(shard.name().clone());
                now.phase = "building";
            });
            let work = async |lease: &Lease, figures: &mut BuildFigures| {
                let mut after = None;
                while let Some(id) = next_segment(&shard, after).await? {
                    after = Some(id);
                    figures.segments += 1;
                    self.build_terms_of(&shard, lease, id, (figures, progress))
                        .await?;
                }
                Ok(())
            };
            outcomes.push(self.job(&shard, ("terms", order), work).await);
        }
        Ok(outcomes)
    }

    async fn build_terms_of(
        &self,
        shard: &Arc<Shard>,
        lease: &Lease,
        id: SegmentId,
        (figures, progress): (&mut BuildFigures, &Progress),
    ) -> Result<()> {
        let is_damaged = match self.stored_terms(id).await? {
            Stored::Whole { .. } => return Ok(()),
            Stored::Missing => false,
            Stored::Damaged(_) => true,
        };
        let (terms, messages) = match self.terms_of(id).await {
            Ok(made) => made,
            Err(ArchiveError::Segment(error)) => {
                tracing::warn!(%error, "a segment cannot be read, and gets no terms");
                figures.unreadable += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        transaction(shard, async |connection| {
            check_lease(connection, lease).await
        })
        .await?;
        if is_damaged {
            self.delete_terms(id).await?;
        }
        figures.bytes += self.put_terms(id, terms).await?;
        figures.built += 1;
        progress.update(|now| now.messages += messages);
        Ok(())
    }

    /// The terms of a segment made anew, and of how many messages.
    async fn terms_of(&self, id: SegmentId) -> Result<(Bytes, u64)> {
        let object = self.objects.head(&object_key(id)).await?;
        let mut writer = TermsWriter::new(id)?;
        let mut open = None;
        let mut failure = None;
        let scanned = self.scan(&object, id, |offset, run| {
            if let Some(before) = open.replace(offset).filter(|before| *before != offset)
                && let Err(error) = writer.end_frame(before)
            {
                failure = Some(error);
            }
            run.messages.iter().for_each(|message| writer.add(message));
        });
        let (_, _, messages) = scanned.await?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        if let Some(last) = open {
            writer.end_frame(last)?;
        }
        Ok((writer.finish()?, messages))
    }

    /// Compares the terms of every segment, in every frame, with what the segment has. It changes nothing.
    ///
    /// # Errors
    /// When a shard or the object store cannot be read.
    pub async fn verify_terms(&self, order: &Order, progress: &Progress) -> Result<TermsReport> {
        let mut report = TermsReport::default();
        for shard in self.shards(order)? {
            progress.update(|now| {
                now.shard = Some(shard.name().clone());
                now.phase = "verifying";
            });
            let mut after = None;
            while let Some(id) = next_segment(&shard, after).await? {
                after = Some(id);
                let looked = self.verify_terms_of(id, (&mut report, progress)).await;
                let problem = match looked {
                    Ok(problem) => problem,
                    Err(ArchiveError::Segment(error)) => Some(error.to_string()),
                    Err(ArchiveError::Objects(error)) if is_missing(&error) => {
                        Some("the segment's object is missing".into())
                    }
                    Err(error) => return Err(error),
                };
                let Some(problem) = problem else { continue };
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                if !archive::is_named(&mut connection, id).await? {
                    continue; // written anew meanwhile
                }
                report.problem_count += 1;
                if report.problems.len() < PROBLEMS {
                    let problem = Problem::of_segment(&shard, id, &problem);
                    report.problems.push(problem);
                }
            }
        }
        Ok(report)
    }

    async fn verify_terms_of(
        &self,
        id: SegmentId,
        (report, progress): (&mut TermsReport, &Progress),
    ) -> Result<Option<String>> {
        report.segments += 1;
        let (stored, bytes) = match self.stored_terms(id).await? {
            Stored::Whole { sections, bytes } => (sections, bytes),
            Stored::Damaged(error) => return Ok(Some(error.to_string())),
            Stored::Missing => {
                report.missing += 1;
                return Ok(None);
            }
        };
        report.with_terms += 1;
        report.bytes += bytes;
        let (right, messages) = self.terms_of(id).await?;
        progress.update(|now| now.messages += messages);
        let right = sections_of(id, &right)?;
        Ok((stored != right).then(|| "its terms are not those of its messages".into()))
    }

    async fn stored_terms(&self, id: SegmentId) -> Result<Stored> {
        let meta = match self.objects.head(&terms_key(id)).await {
            Ok(meta) => meta,
            Err(error) if is_missing(&error) => return Ok(Stored::Missing),
            Err(error) => return Err(error.into()),
        };
        let read = self.objects.get_range(&meta.key, 0..meta.size).await;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if is_missing(&error) => return Ok(Stored::Missing),
            Err(error) => return Err(error.into()),
        };
        let read = tokio::task::spawn_blocking(move || sections_of(id, &bytes));
        let read = read.await.map_err(|_| ArchiveError::Stopped)?;
        Ok(match read {
            Ok(sections) => Stored::Whole {
                sections,
                bytes: meta.size,
            },
            Err(error) => Stored::Damaged(error),
        })
    }

    /// Deletes the terms of all segments, of every version that this program knows, and says how many. Searches read the segments
    /// then.
    ///
    /// # Errors
    /// When the object store fails; those before are gone.
    pub async fn drop_terms(&self) -> Result<u64> {
        let mut dropped = 0;
        let Ok(prefix) = KeyPrefix::new(KEY_PREFIX) else {
            return Ok(dropped);
        };
        let mut listing = std::pin::pin!(transfer::list(self.objects.as_ref(), &prefix));
        while let Some(object) = listing.try_next().await? {
            if segment_of_terms(&object.key).is_some() {
                self.objects.delete(&object.key).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

fn is_missing(error: &StoreError) -> bool {
    error.kind() == ErrorKind::NotFound
}

/// All sections of a segment's terms.
fn sections_of(id: SegmentId, bytes: &[u8]) -> Result<Vec<Section>, TermsError> {
    let damaged = || TermsError::Damaged {
        segment: id,
        problem: "it ends too early".into(),
    };
    let size = Directory::size(id, bytes)?;
    let directory = Directory::read(id, bytes.get(..size).ok_or_else(damaged)?)?;
    let read = |entry: &crate::terms::SectionEntry| {
        let range = entry.range();
        let from = usize::try_from(range.start).map_err(|_| damaged())?;
        let to = usize::try_from(range.end).map_err(|_| damaged())?;
        Section::read(id, entry, bytes.get(from..to).ok_or_else(damaged)?)
    };
    directory.sections().iter().map(read).collect()
}
