//! Half-open ranges of the u64 key space.
//!
//! The end of the space, 2^64, is not a u64, so the last range has no end bound: `None`.

use std::fmt;

use serde::Serialize;

use crate::ids::UserKey;

/// The keys from `start` up to, not including, `end`; without an `end`, up to the end of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct KeyRange {
    /// The first key.
    pub start: u64,
    /// The first key after the range; `None` is 2^64.
    pub end: Option<u64>,
}

impl KeyRange {
    /// The whole key space.
    pub const ALL: Self = Self {
        start: 0,
        end: None,
    };

    /// The range from `start` to before `end`, or `None` if that is empty.
    #[must_use]
    pub fn new(start: u64, end: Option<u64>) -> Option<Self> {
        match end {
            Some(end) if end <= start => None,
            _ => Some(Self { start, end }),
        }
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: UserKey) -> bool {
        key.0 >= self.start && self.end.is_none_or(|end| key.0 < end)
    }

    /// Whether a key is in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins_before = |end: Option<u64>, start: u64| end.is_none_or(|end| start < end);
        begins_before(self.end, other.start) && begins_before(other.end, self.start)
    }

    /// Whether all of `other` is in the range.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let ends_within = match (self.end, other.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(other)) => other <= end,
        };
        self.start <= other.start && ends_within
    }

    /// The range cut so that `part`, which it covers, is a range of its own: what is before it, `part`, and what is after it,
    /// without the empty ones.
    #[must_use]
    pub fn cut(&self, part: Self) -> Vec<Self> {
        let before = Self::new(self.start, Some(part.start));
        let after = part.end.and_then(|end| Self::new(end, self.end));
        before.into_iter().chain([part]).chain(after).collect()
    }

    /// How many keys the range has.
    #[must_use]
    pub fn width(&self) -> u128 {
        let end = self.end.map_or(1 << 64, u128::from);
        end - u128::from(self.start)
    }

    /// The key space cut into `parts` contiguous ranges of the same width (give or take one key), in order.
    #[must_use]
    pub fn split_evenly(parts: u32) -> Vec<Self> {
        Self::ALL.split_into(parts)
    }

    /// The range cut into `parts` contiguous ones of the same width (give or take one key), in order; into one a key, when it
    /// has fewer keys.
    #[must_use]
    pub fn split_into(&self, parts: u32) -> Vec<Self> {
        let (width, parts) = (self.width(), u128::from(parts).min(self.width()));
        let bound = |i: u128| match width * i / parts {
            offset if offset < width => u64::try_from(u128::from(self.start) + offset).ok(),
            _ => self.end,
        };
        (0..parts)
            .filter_map(|i| Self::new(bound(i)?, bound(i + 1)))
            .collect()
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "{}..{end}", self.start),
            None => write!(f, "{}..", self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_even_split_covers_every_key_once(parts in 1u32..300, key: u64) {
            let ranges = KeyRange::split_evenly(parts);
            prop_assert_eq!(ranges.len(), parts as usize);
            prop_assert_eq!(ranges.iter().filter(|r| r.contains(UserKey(key))).count(), 1);
            prop_assert_eq!(ranges.iter().map(KeyRange::width).sum::<u128>(), 1 << 64);
            let widths: Vec<_> = ranges.iter().map(KeyRange::width).collect();
            prop_assert!(widths.iter().max().unwrap() - widths.iter().min().unwrap() <= 1);
        }
    }

    proptest! {
        #[test]
        fn a_range_is_cut_into_parts_of_one_width(start: u64, keys in 1u64.., parts in 1u32..100) {
            let whole = KeyRange::new(start, start.checked_add(keys)).unwrap();
            let cut = whole.split_into(parts);
            prop_assert_eq!(cut.len() as u128, u128::from(parts).min(whole.width()));
            prop_assert_eq!((cut[0].start, cut[cut.len() - 1].end), (whole.start, whole.end));
            prop_assert!(cut.windows(2).all(|two| two[0].end == Some(two[1].start)));
            let widths: Vec<_> = cut.iter().map(KeyRange::width).collect();
            prop_assert!(widths.iter().max().unwrap() - widths.iter().min().unwrap() <= 1);
        }
    }

    fn some_range() -> impl Strategy<Value = KeyRange> {
        let range = |(start, end): (u64, Option<u64>)| KeyRange::new(start, end);
        (0u64..20, prop::option::of(0u64..20)).prop_filter_map("not empty", range)
    }

    proptest! {
        #[test]
        fn a_cut_keeps_every_key(whole in some_range(), part in some_range(), key in 0u64..25) {
            let within = |range: &KeyRange| range.contains(UserKey(key));
            prop_assert!(!whole.covers(&part) || !within(&part) || within(&whole));
            prop_assume!(whole.covers(&part));
            let pieces = whole.cut(part);
            prop_assert!(pieces.contains(&part) && pieces.len() <= 3);
            prop_assert_eq!(pieces.iter().filter(|it| within(it)).count(), usize::from(within(&whole)));
            prop_assert_eq!(pieces.iter().map(KeyRange::width).sum::<u128>(), whole.width());
        }
    }

    #[test]
    fn bounds_are_half_open() {
        let range = KeyRange::new(10, Some(20)).unwrap();
        assert!(!range.contains(UserKey(9)) && range.contains(UserKey(10)));
        assert!(range.contains(UserKey(19)) && !range.contains(UserKey(20)));
        assert!(KeyRange::new(5, Some(5)).is_none());
        assert!(KeyRange::ALL.contains(UserKey(u64::MAX)));
    }
}
