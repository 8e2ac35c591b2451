//! MPEG audio, layer III: frame after frame.

use crate::media::bytes::Reader;

const KBITS: [[u64; 14]; 2] = [
    [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    ],
    [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

pub(super) fn microseconds(content: &[u8]) -> Option<u64> {
    let mut rest = Reader(content);
    if rest.0.starts_with(b"ID3") {
        rest.take(6)?;
        let size = rest.take(4)?.iter();
        let size = size.fold(0, |all, byte| all << 7 | u64::from(byte & 0x7f));
        rest.take(usize::try_from(size).ok()?)?;
    }
    let (mut all, mut frames) = (0u64, 0u64);
    while !rest.is_empty() && !rest.0.starts_with(b"TAG") && !rest.0.starts_with(b"APETAGEX") {
        let (length, microseconds) = frame(rest.0.get(..4)?)?;
        // The last one may be cut off.
        if (rest.take_up_to(length).len() as u64) < length && frames == 0 {
            return None;
        }
        all += microseconds;
        frames += 1;
    }
    (frames > 0).then_some(all)
}

/// The bytes of a frame with this header, and how long it plays.
fn frame(header: &[u8]) -> Option<(u64, u64)> {
    let [0xff, second, third, _] = *header else {
        return None;
    };
    // Version 1, 2 or 2.5, and layer III.
    let (version, rates) = match second & 0xfe {
        0xfa => (0, [44_100, 48_000, 32_000]),
        0xf2 => (1, [22_050, 24_000, 16_000]),
        0xe2 => (1, [11_025, 12_000, 8000]),
        _ => return None,
    };
    let kbits = KBITS[version].get(usize::from(third >> 4).checked_sub(1)?)?;
    let rate = *rates.get(usize::from(third >> 2 & 3))?;
    let samples = if version == 0 { 1152 } else { 576 };
    let padding = u64::from(third >> 1 & 1);
    let length = samples / 8 * kbits * 1000 / rate + padding;
    Some((length, samples * 1_000_000 / rate))
}
