//! Ogg with one stream of Opus (RFC 3533, RFC 7845): pages of packets.

use super::opus;
use crate::media::bytes::Reader;

pub(super) fn microseconds(content: &[u8]) -> Option<u64> {
    let mut rest = Reader(content);
    let (mut all, mut packet, mut packets) = (0u64, Vec::new(), 0u64);
    let mut serial = None;
    while !rest.is_empty() {
        if rest.take(4)? != b"OggS" {
            return None;
        }
        rest.take(10)?;
        let stream = rest.le(4)?;
        rest.take(8)?;
        if *serial.get_or_insert(stream) != stream {
            return None; // several streams
        }
        let segments = usize::from(rest.u8()?);
        for length in rest.take(segments)? {
            packet.extend_from_slice(rest.take(usize::from(*length))?);
            if *length == 255 {
                continue; // goes on
            }
            // The first two are about the stream.
            if packets >= 2 {
                all = all.checked_add(opus::microseconds(&packet)?)?;
            }
            packets += 1;
            packet.clear();
        }
    }
    (packets > 2).then_some(all)
}
