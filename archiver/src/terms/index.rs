//! The terms of segments out of the object store: which runs a search need not read.
//!
//! Of the terms of a segment first the directory is read, then the sections of the frames that are asked for, those that lie side by
//! side with one request. Both are kept in a cache bounded by bytes. A segment of which only one frame is asked for is not looked up
//! unless its terms are in the cache already: the frame itself is as quick to read.
//!
//! INV-BOUND: the cache has `archive.terms_cache_bytes`; [`SEGMENTS_AT_ONCE`] segments of a search are looked up at once, each of which
//! reads [`READ_BYTES`] at once; every look-up ends by the deadline of its search.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive::{ArchivedRun, SegmentId};
use backscroll_shard::search::terms::Pieces;
use futures_util::{StreamExt as _, stream};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::reader::{Directory, Section};
use super::{DIRECTORY_STEP, SectionEntry, TermsError, terms_key};
use crate::metrics;
use crate::object_store::{ErrorKind, ObjectKey, ObjectStore, StoreError, transfer};

/// Most segments that a search looks up at once.
const SEGMENTS_AT_ONCE: usize = 8;
/// Most bytes of sections that are read with one request, unless one section is larger.
const READ_BYTES: u64 = 4 << 20;
/// About what a section takes once it is unpacked; only sizes the cache's tables.
const SECTION_BYTES: u64 = 512 << 10;
/// For how long it is believed that a segment has no terms.
const ABSENCE: Duration = Duration::from_secs(60);

/// What is kept: of a segment the directory, and its sections by their number.
type PartId = (SegmentId, Option<usize>);

#[derive(Clone)]
enum Part {
    /// There are no terms, or they cannot be used: seen then.
    Absent(Instant),
    Directory(Arc<Directory>),
    Section(Arc<Section>),
}

#[derive(Clone)]
struct PartWeight;

impl Weighter<PartId, Part> for PartWeight {
    fn weight(&self, _id: &PartId, part: &Part) -> u64 {
        let bytes = match part {
            Part::Absent(_) => 0,
            Part::Directory(directory) => size_of_val(directory.sections()) as u64,
            Part::Section(section) => section.memory(),
        };
        100 + bytes
    }
}

/// Why terms were not read.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Objects(#[from] StoreError),
    #[error(transparent)]
    Terms(#[from] TermsError),
    #[error("the process is ending")]
    Ending,
}

/// Looks terms up.
#[derive(Debug)]
pub struct TermsIndex {
    objects: Arc<dyn ObjectStore>,
    parts: Cache<PartId, Part, PartWeight>,
}

impl TermsIndex {
    /// Reads from `objects`, and keeps `cache_bytes` of what it has read.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, cache_bytes: u64) -> Self {
        let parts = usize::try_from(cache_bytes / SECTION_BYTES).unwrap_or(usize::MAX);
        Self {
            objects,
            parts: Cache::with_weighter(parts.max(64), cache_bytes, PartWeight),
        }
    }

    /// Which of `runs` have no message with all of `pieces`, as far as it is known by `deadline`.
    pub async fn ruled_out(
        &self,
        runs: &[ArchivedRun],
        pieces: &Pieces,
        deadline: Instant,
    ) -> Vec<bool> {
        let mut wanted: BTreeMap<SegmentId, BTreeSet<u64>> = BTreeMap::new();
        for run in runs {
            if let Some(segment) = run.segment {
                wanted.entry(segment).or_default().insert(run.offset);
            }
        }
        let looks = wanted.into_iter().map(async |(segment, frames)| {
            let look = self.frames_without(segment, frames, pieces);
            let look = tokio::time::timeout_at(deadline.into(), look).await;
            (segment, look.unwrap_or_default())
        });
        let looks = stream::iter(looks).buffer_unordered(SEGMENTS_AT_ONCE);
        let without: HashMap<SegmentId, BTreeSet<u64>> = looks.collect().await;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::TERMS_CACHE_BYTES.set(self.parts.weight() as f64);
        let is_out = |run: &ArchivedRun| {
            let frames = run.segment.and_then(|segment| without.get(&segment));
            frames.is_some_and(|frames| frames.contains(&run.offset))
        };
        runs.iter().map(is_out).collect()
    }

    /// Those of `frames` that have no message with all of `pieces`.
    async fn frames_without(
        &self,
        segment: SegmentId,
        frames: BTreeSet<u64>,
        pieces: &Pieces,
    ) -> BTreeSet<u64> {
        match self.look_up(segment, frames, pieces).await {
            Ok(without) => without,
            Err(Failure::Objects(error)) if error.kind() == ErrorKind::NotFound => {
                self.parts
                    .insert((segment, None), Part::Absent(Instant::now()));
                BTreeSet::new()
            }
            Err(Failure::Terms(error)) => {
                tracing::warn!(%error, "terms cannot be used; searches read the segment");
                self.parts
                    .insert((segment, None), Part::Absent(Instant::now()));
                BTreeSet::new()
            }
            Err(error) => {
                tracing::debug!(%error, %segment, "terms were not read");
                BTreeSet::new()
            }
        }
    }

    async fn look_up(
        &self,
        segment: SegmentId,
        mut frames: BTreeSet<u64>,
        pieces: &Pieces,
    ) -> Result<BTreeSet<u64>, Failure> {
        let directory = match self.parts.get(&(segment, None)) {
            Some(Part::Directory(directory)) => directory,
            Some(Part::Absent(since)) if since.elapsed() < ABSENCE => return Ok(BTreeSet::new()),
            _ if frames.len() < 2 => return Ok(BTreeSet::new()),
            _ => self.read_directory(segment).await?,
        };
        frames.retain(|offset| directory.section_of(*offset).is_some());
        let wanted: BTreeSet<usize> = frames
            .iter()
            .filter_map(|offset| directory.section_of(*offset))
            .collect();
        let sections = self.sections(segment, &directory, &wanted).await?;
        let pieces = pieces.clone();
        let looking = tokio::task::spawn_blocking(move || {
            for section in sections {
                for offset in section.frames_with(&pieces) {
                    frames.remove(&offset);
                }
            }
            frames
        });
        looking.await.map_err(|_| Failure::Ending)
    }

    async fn read_directory(&self, segment: SegmentId) -> Result<Arc<Directory>, Failure> {
        let key = terms_key(segment);
        let mut bytes = self
            .objects
            .get_range(&key, 0..DIRECTORY_STEP as u64)
            .await?;
        let size = Directory::size(segment, &bytes)?;
        if size > bytes.len() {
            bytes = self.objects.get_range(&key, 0..size as u64).await?;
        }
        metrics::TERMS_READS.with(["directory"]).increment(1);
        let directory = Arc::new(Directory::read(segment, &bytes)?);
        let part = Part::Directory(Arc::clone(&directory));
        self.parts.insert((segment, None), part);
        Ok(directory)
    }

    /// Sections of a segment, each out of the cache or read.
    async fn sections(
        &self,
        segment: SegmentId,
        directory: &Directory,
        wanted: &BTreeSet<usize>,
    ) -> Result<Vec<Arc<Section>>, Failure> {
        let mut found = Vec::with_capacity(wanted.len());
        let mut missing: Vec<(usize, SectionEntry)> = Vec::new();
        for at in wanted {
            match self.parts.get(&(segment, Some(*at))) {
                Some(Part::Section(section)) => {
                    metrics::TERMS_READS.with(["cache"]).increment(1);
                    found.push(section);
                }
                _ => missing.extend(directory.sections().get(*at).map(|entry| (*at, *entry))),
            }
        }
        let key = terms_key(segment);
        let mut rest = missing.as_slice();
        while let Some((first, _)) = rest.first() {
            let (chunk, later) = rest.split_at(side_by_side(rest));
            let sections = self.read_sections(segment, &key, chunk).await?;
            metrics::TERMS_READS
                .with(["store"])
                .increment(sections.len() as u64);
            for (at, section) in (*first..).zip(sections) {
                let part = Part::Section(Arc::clone(&section));
                self.parts.insert((segment, Some(at)), part);
                found.push(section);
            }
            rest = later;
        }
        Ok(found)
    }

    async fn read_sections(
        &self,
        segment: SegmentId,
        key: &ObjectKey,
        sections: &[(usize, SectionEntry)],
    ) -> Result<Vec<Arc<Section>>, Failure> {
        let ranges: Vec<_> = sections.iter().map(|(_, entry)| entry.range()).collect();
        let bytes = transfer::get_ranges(self.objects.as_ref(), key, &ranges).await?;
        let entries: Vec<SectionEntry> = sections.iter().map(|(_, entry)| *entry).collect();
        let read = tokio::task::spawn_blocking(move || {
            let parts = entries.iter().zip(&bytes);
            parts
                .map(|(entry, bytes)| Section::read(segment, entry, bytes).map(Arc::new))
                .collect::<Result<Vec<_>, _>>()
        });
        Ok(read.await.map_err(|_| Failure::Ending)??)
    }
}

/// How many sections, from the first on, are read with one request.
fn side_by_side(sections: &[(usize, SectionEntry)]) -> usize {
    let Some((first, entry)) = sections.first() else {
        return 0;
    };
    let (begin, places) = (entry.offset, *first..);
    let fits = sections
        .iter()
        .zip(places)
        .take_while(|((at, entry), place)| {
            at == place && (at == first || entry.range().end - begin <= READ_BYTES)
        });
    fits.count()
}
