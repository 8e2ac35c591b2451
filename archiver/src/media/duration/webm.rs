//! WebM with Opus: elements of EBML, of which those that hold others are gone into whatever size they claim, since recorders
//! write them without one.

use super::opus;
use crate::media::bytes::Reader;

const SEGMENT: u64 = 0x1853_8067;
const TRACKS: u64 = 0x1654_ae6b;
const TRACK: u64 = 0xae;
const TRACK_TYPE: u64 = 0x83;
const CLUSTER: u64 = 0x1f43_b675;
const TIMECODE: u64 = 0xe7;
const BLOCK_GROUP: u64 = 0xa0;
const BLOCK: u64 = 0xa1;
const SIMPLE_BLOCK: u64 = 0xa3;

/// The type of a track with sound.
const SOUND: &[u8] = &[2];

/// The greater of the packets' durations together, and the time that passes from the first to the last.
pub(super) fn microseconds(content: &[u8]) -> Option<u64> {
    let mut rest = Reader(content);
    let (mut played, mut tracks) = (0u64, 0);
    let (mut cluster, mut first, mut last) = (0u64, None::<u64>, 0u64);
    while !rest.is_empty() {
        let (id, size) = (element_id(&mut rest)?, element_size(&mut rest)?);
        if matches!(id, SEGMENT | TRACKS | TRACK | CLUSTER | BLOCK_GROUP) {
            continue;
        }
        let data = rest.take(usize::try_from(size?).ok()?)?;
        match id {
            TRACK_TYPE if data != SOUND => return None,
            TRACK_TYPE => tracks += 1,
            TIMECODE => cluster = Reader(data).be(data.len().min(8))?,
            BLOCK | SIMPLE_BLOCK => {
                let (offset, packet) = block(data)?;
                let duration = opus::microseconds(packet)?;
                played = played.checked_add(duration)?;
                // The scale of recorders, and the default: milliseconds.
                let at = cluster.checked_add_signed(offset)?.checked_mul(1000)?;
                first.get_or_insert(at);
                last = last.max(at.checked_add(duration)?);
            }
            _ => {}
        }
    }
    let passed = last.saturating_sub(first?);
    (tracks == 1).then_some(played.max(passed))
}

fn element_id(rest: &mut Reader<'_>) -> Option<u64> {
    let length = rest.0.first()?.leading_zeros() as usize + 1;
    (length <= 4).then(|| rest.be(length))?
}

/// The inner option is `None` for an unknown size.
fn element_size(rest: &mut Reader<'_>) -> Option<Option<u64>> {
    let length = rest.0.first()?.leading_zeros() as usize + 1;
    let size = (length <= 8).then(|| rest.be(length))??;
    let most = (1 << (7 * length)) - 1;
    let size = size & most;
    Some((size != most).then_some(size))
}

/// A block's time within its cluster, and its packet. Recorders put one in each.
fn block(data: &[u8]) -> Option<(i64, &[u8])> {
    let mut rest = Reader(data);
    let length = rest.0.first()?.leading_zeros() as usize + 1;
    rest.take(length)?;
    let offset = i16::from_be_bytes(rest.take(2)?.try_into().ok()?);
    let has_lacing = rest.u8()? & 0x06 != 0;
    (!has_lacing).then_some((i64::from(offset), rest.0))
}
