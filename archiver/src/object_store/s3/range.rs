//! Whether a store sends the range that was asked for.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::super::error::{ErrorKind, Operation, Result, StoreError};
use super::super::key::ObjectKey;

/// Whether what is about to come is the range asked for: a store may send the whole object, or as much as there is.
pub(super) fn check_range(
    key: &ObjectKey,
    range: &Range<u64>,
    output: &GetObjectOutput,
) -> Result<()> {
    let sent = output.content_range().and_then(parse_content_range);
    let Some((sent, total)) = sent else {
        // No `Content-Range` is the whole object: right only if that is what was asked for.
        let whole = range.start == 0 && super::size(output.content_length()) == range.end;
        let detail = "the store sent the whole object instead of a range of it";
        return if whole {
            Ok(())
        } else {
            Err(StoreError::new(
                ErrorKind::Unsupported,
                Operation::GetRange,
                key,
                detail,
            ))
        };
    };
    if total.is_some_and(|total| range.end > total) {
        let detail = format_args!(
            "bytes {} to {} of {}",
            range.start,
            range.end,
            total.unwrap_or_default()
        );
        return Err(StoreError::new(
            ErrorKind::OutOfRange,
            Operation::GetRange,
            key,
            detail,
        ));
    }
    if sent != *range {
        let detail = format_args!("bytes {sent:?} came instead of {range:?}");
        return Err(StoreError::new(
            ErrorKind::Damaged,
            Operation::GetRange,
            key,
            detail,
        ));
    }
    Ok(())
}

/// The range and the object's size of `bytes 0-99/1234`; the size may be `*`.
fn parse_content_range(header: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((first..last.checked_add(1)?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(
            parse_content_range("bytes 0-99/1234"),
            Some((0..100, Some(1234)))
        );
        assert_eq!(parse_content_range("bytes 5-5/*"), Some((5..6, None)));
        for wrong in [
            "",
            "bytes */1234",
            "bytes 1-/9",
            "octets 0-1/2",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(parse_content_range(wrong), None, "{wrong}");
        }
    }
}
