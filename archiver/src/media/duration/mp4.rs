//! MP4 with one track of sound (ISO 14496-12), whole or in fragments: the tables that say how long each sample plays.

use super::in_microseconds;
use crate::media::bytes::Reader;

/// Samples of AAC that a packet plays at least, in any of its forms that recorders write.
const AAC_FRAME: u64 = 1024;
/// A smaller time scale is not the sound's sample rate.
const SLOWEST_RATE: u64 = 8000;
/// How deep atoms are in each other.
const DEEPEST: u32 = 8;

#[derive(Default)]
struct Track {
    scale: u64,
    /// Of all samples.
    duration: u64,
    samples: u64,
    /// Of a sample that does not say, in fragments.
    default: u64,
    tracks: u32,
    has_pictures: bool,
}

pub(super) fn microseconds(content: &[u8]) -> Option<u64> {
    let mut track = Track::default();
    track.read(content, 0)?;
    if track.tracks != 1 || track.has_pictures || track.samples == 0 {
        return None;
    }
    // Whatever the tables say, a packet of sound does not play shorter than it does.
    let least = match track.scale >= SLOWEST_RATE {
        true => track.samples.checked_mul(AAC_FRAME)?,
        false => 0,
    };
    in_microseconds(track.duration.max(least), track.scale)
}

impl Track {
    fn read(&mut self, content: &[u8], depth: u32) -> Option<()> {
        let mut rest = Reader(content);
        while !rest.is_empty() {
            let length = rest.be(4)?;
            let name = rest.take(4)?;
            let length = match length {
                0 => rest.0.len() as u64,
                1 => rest.be(8)?.checked_sub(16)?,
                length => length.checked_sub(8)?,
            };
            let data = rest.take(usize::try_from(length).ok()?)?;
            match name {
                b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"traf" | b"mvex"
                    if depth < DEEPEST =>
                {
                    self.tracks += u32::from(name == b"trak");
                    self.read(data, depth + 1)?;
                }
                b"hdlr" => self.has_pictures |= data.get(8..12)? != b"soun",
                b"mdhd" => self.scale = media_header(data)?,
                b"stts" => self.times(data)?,
                b"trex" => self.default = Reader(data.get(12..)?).be(4)?,
                b"tfhd" => self.fragment_header(data)?,
                b"trun" => self.fragment(data)?,
                _ => {}
            }
        }
        Some(())
    }

    fn add(&mut self, samples: u64, each: u64) -> Option<()> {
        self.samples = self.samples.checked_add(samples)?;
        self.duration = self.duration.checked_add(samples.checked_mul(each)?)?;
        Some(())
    }

    fn times(&mut self, data: &[u8]) -> Option<()> {
        let mut rest = Reader(data.get(4..)?);
        for _ in 0..rest.be(4)? {
            let (samples, each) = (rest.be(4)?, rest.be(4)?);
            self.add(samples, each)?;
        }
        Some(())
    }

    fn fragment_header(&mut self, data: &[u8]) -> Option<()> {
        let mut rest = Reader(data);
        let flags = rest.be(4)?;
        rest.take(4)?;
        for (flag, bytes) in [(0x1, 8), (0x2, 4)] {
            if flags & flag != 0 {
                rest.take(bytes)?;
            }
        }
        if flags & 0x8 != 0 {
            self.default = rest.be(4)?;
        }
        Some(())
    }

    fn fragment(&mut self, data: &[u8]) -> Option<()> {
        let mut rest = Reader(data);
        let flags = rest.be(4)?;
        let samples = rest.be(4)?;
        for flag in [0x1, 0x4] {
            if flags & flag != 0 {
                rest.take(4)?;
            }
        }
        if flags & 0x100 == 0 {
            return self.add(samples, self.default);
        }
        let others = [0x200, 0x400, 0x800]
            .iter()
            .filter(|flag| flags & **flag != 0);
        let others = others.count() * 4;
        for _ in 0..samples {
            let each = rest.be(4)?;
            rest.take(others)?;
            self.add(1, each)?;
        }
        Some(())
    }
}

/// The time scale.
fn media_header(data: &[u8]) -> Option<u64> {
    let mut rest = Reader(data);
    let version = rest.u8()?;
    rest.take(if version == 1 { 19 } else { 11 })?;
    rest.be(4)
}
