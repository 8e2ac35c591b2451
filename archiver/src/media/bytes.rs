//! Reads the structure of files that nobody vouches for: every step says whether the bytes are there.

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// As many of the next `n` bytes as there are.
    pub(super) fn take_up_to(&mut self, n: u64) -> &'a [u8] {
        let n = usize::try_from(n).map_or(self.0.len(), |n| n.min(self.0.len()));
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    /// The next `n` bytes, at most eight, as a number whose first byte counts most.
    pub(super) fn be(&mut self, n: usize) -> Option<u64> {
        Some(
            self.take(n)?
                .iter()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        )
    }

    /// The same, where the last byte counts most.
    pub(super) fn le(&mut self, n: usize) -> Option<u64> {
        let bytes = self.take(n)?.iter().rev();
        Some(bytes.fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }
}
