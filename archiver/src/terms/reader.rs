//! Reads the terms of a segment from their bytes. Whatever does not hold is [`TermsError::Damaged`]; memory is bounded by
//! [`SECTION_MAX_BYTES`].

use backscroll_shard::archive::SegmentId;
use backscroll_shard::search::terms::Pieces;
use memchr::memmem;
use twox_hash::XxHash3_64;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::writer::LISTED;
use super::{
    DIRECTORY_HEADER, DIRECTORY_MAX, DIRECTORY_STEP, ENTRY_BYTES, Frames, MAGIC, SECTION_FRAMES,
    SECTION_MAX_BYTES, SKIPPABLE, SKIPPABLE_HEADER, SectionEntry, TermsError,
};

/// Where the sections are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(Vec<SectionEntry>);

impl Directory {
    /// How long the directory is, from the first bytes of the object: at least [`SKIPPABLE_HEADER`].
    ///
    /// # Errors
    /// [`TermsError::Damaged`] when it is none.
    pub fn size(segment: SegmentId, bytes: &[u8]) -> Result<usize, TermsError> {
        let mut input = Input { segment, bytes };
        let (mark, payload) = (input.u32()?, input.u32()? as usize);
        let size = payload.saturating_add(SKIPPABLE_HEADER);
        if mark != SKIPPABLE || size % DIRECTORY_STEP != 0 || size > DIRECTORY_MAX {
            return Err(damaged(segment, "no directory"));
        }
        Ok(size)
    }

    /// Reads the directory of the terms of `segment`: the first [`Directory::size`] bytes of the object.
    ///
    /// # Errors
    /// [`TermsError::Damaged`] when it is not one, or that of another segment.
    pub fn read(segment: SegmentId, bytes: &[u8]) -> Result<Self, TermsError> {
        let mut input = Input { segment, bytes };
        input.take(SKIPPABLE_HEADER)?;
        if input.take(MAGIC.len())? != MAGIC || input.take(16)? != segment.as_bytes() {
            return Err(damaged(segment, "no directory of this segment"));
        }
        let count = input.u32()? as usize;
        let end = SKIPPABLE_HEADER + DIRECTORY_HEADER + count.saturating_mul(ENTRY_BYTES);
        let said = bytes.get(end..).and_then(<[u8]>::first_chunk);
        let digest = bytes.get(..end).map(XxHash3_64::oneshot);
        if said.map(|said| u64::from_le_bytes(*said)) != digest {
            return Err(damaged(segment, "its directory has another digest"));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(SectionEntry {
                frames: (input.u64()?, input.u64()?),
                offset: input.u64()?,
                length: input.u32()?,
                digest: input.u64()?,
            });
        }
        Ok(Self(entries))
    }

    /// The sections, in order.
    #[must_use]
    pub fn sections(&self) -> &[SectionEntry] {
        &self.0
    }

    /// Which section has the terms of the frame at `offset` in the segment.
    #[must_use]
    pub fn section_of(&self, offset: u64) -> Option<usize> {
        let at = self.0.partition_point(|section| section.frames.1 < offset);
        let section = self.0.get(at)?;
        (section.frames.0 <= offset).then_some(at)
    }
}

/// The terms of some frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The terms, a line each.
    text: String,
    /// Where each begins.
    starts: Vec<u32>,
    /// The frames that have it.
    frames: Vec<Frames>,
    /// The offsets of the frames in the segment.
    offsets: Vec<u64>,
    /// Frames that are always read.
    open: Frames,
}

impl Section {
    /// Reads a section that the directory has.
    ///
    /// # Errors
    /// [`TermsError::Damaged`] when the bytes are not those that were written.
    pub fn read(
        segment: SegmentId,
        entry: &SectionEntry,
        compressed: &[u8],
    ) -> Result<Self, TermsError> {
        if XxHash3_64::oneshot(compressed) != entry.digest {
            return Err(damaged(segment, "a section has another digest"));
        }
        let size = zstd_safe::get_frame_content_size(compressed).ok().flatten();
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= SECTION_MAX_BYTES);
        let size = size.ok_or_else(|| damaged(segment, "a section does not state its size"))?;
        let plain = Decompressor::new().and_then(|mut it| it.decompress(compressed, size));
        let plain = plain.map_err(|error| damaged(segment, &error.to_string()))?;
        Self::parse(segment, plain)
    }

    fn parse(segment: SegmentId, mut plain: Vec<u8>) -> Result<Self, TermsError> {
        let wrong = || damaged(segment, "a section is not as it is written");
        let foot = plain.last_chunk::<12>().copied().ok_or_else(wrong)?;
        let mut foot = Input {
            segment,
            bytes: &foot,
        };
        let (text, count, frames) = (foot.u32()? as usize, foot.u32()? as usize, foot.u32()?);
        let end = plain.len() - 12;
        let mut input = Input {
            segment,
            bytes: plain.get(text..end).ok_or_else(wrong)?,
        };
        let open = input.u64()?;
        if frames as usize > SECTION_FRAMES || count > text {
            return Err(wrong());
        }
        let mut offsets = Vec::with_capacity(frames as usize);
        for _ in 0..frames {
            offsets.push(input.u64()?);
        }
        let mut of_terms = Vec::with_capacity(count);
        for _ in 0..count {
            of_terms.push(input.frames()?);
        }
        if !input.bytes.is_empty() {
            return Err(wrong());
        }
        plain.truncate(text);
        plain.shrink_to_fit();
        let text = String::from_utf8(plain).map_err(|_| wrong())?;
        let mut starts = Vec::with_capacity(count);
        let mut start = 0_u32;
        for end in memchr::memchr_iter(b'\n', text.as_bytes()) {
            starts.push(start);
            start = u32::try_from(end + 1).map_err(|_| wrong())?;
        }
        if starts.len() != count || start as usize != text.len() {
            return Err(wrong());
        }
        Ok(Self {
            text,
            starts,
            frames: of_terms,
            offsets,
            open,
        })
    }

    /// The offsets of the frames that may have a message with all of these pieces.
    #[must_use]
    pub fn frames_with(&self, pieces: &Pieces) -> Vec<u64> {
        let all = pieces.iter().map(|piece| self.frames_of(piece));
        let frames = all.fold(Frames::MAX, |all, frames| all & frames) | self.open;
        let places = self.offsets.iter().enumerate();
        let found = places.filter(|(place, _)| frames >> place & 1 == 1);
        found.map(|(_, offset)| *offset).collect()
    }

    /// The frames with a term that has this piece.
    fn frames_of(&self, piece: &str) -> Frames {
        let mut found = 0;
        let mut from = 0;
        let finder = memmem::Finder::new(piece);
        while let Some(place) = self
            .text
            .as_bytes()
            .get(from..)
            .and_then(|it| finder.find(it))
        {
            let place = from + place;
            let next = self
                .starts
                .partition_point(|start| *start as usize <= place);
            found |= next.checked_sub(1).map_or(0, |term| self.frames[term]);
            from = self
                .starts
                .get(next)
                .map_or(self.text.len(), |it| *it as usize);
        }
        found
    }

    /// The terms.
    pub fn terms(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// About how much memory it takes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        (self.text.len() + self.starts.len() * (4 + 8) + self.offsets.len() * 8 + 200) as u64
    }
}

fn damaged(segment: SegmentId, problem: &str) -> TermsError {
    TermsError::Damaged {
        segment,
        problem: problem.into(),
    }
}

/// Bytes that are being read.
struct Input<'a> {
    segment: SegmentId,
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TermsError> {
        let taken = self.bytes.split_at_checked(count);
        let (taken, rest) = taken.ok_or_else(|| damaged(self.segment, "it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], TermsError> {
        let taken = self.take(N)?.first_chunk().copied();
        taken.ok_or_else(|| damaged(self.segment, "it ends too early"))
    }

    fn u32(&mut self) -> Result<u32, TermsError> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, TermsError> {
        self.chunk().map(u64::from_le_bytes)
    }

    /// Frames as the writer puts them.
    fn frames(&mut self) -> Result<Frames, TermsError> {
        let [count] = self.chunk()?;
        if u32::from(count) > LISTED {
            return self.u64();
        }
        let places = self.take(usize::from(count))?.iter();
        Ok(places.fold(0, |frames, place| frames | 1 << (place & 63)))
    }
}
