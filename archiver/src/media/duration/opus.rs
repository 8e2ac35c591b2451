//! Packets of Opus (RFC 6716, 3.1): each says how long it plays.

/// The longest packet: 120 ms.
const LONGEST: u64 = 120_000;

/// Microseconds; `None` for what is no packet.
pub(super) fn microseconds(packet: &[u8]) -> Option<u64> {
    let (first, rest) = packet.split_first()?;
    let config = first >> 3;
    let frame = match config {
        0..=11 => [10_000, 20_000, 40_000, 60_000][usize::from(config & 3)],
        12..=15 => [10_000, 20_000][usize::from(config & 1)],
        _ => [2_500, 5_000, 10_000, 20_000][usize::from(config & 3)],
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(rest.first()? & 0x3f),
    };
    Some(frame * frames).filter(|all| *all <= LONGEST)
}
