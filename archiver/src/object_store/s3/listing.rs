//! Listing a bucket, page by page.
//!
//! A page begins where the store says that the one before ended. `start-after`, which would do with a key alone, is passed
//! over by some stores: they would give the first page for ever. A page that does not come after the one before is refused.

use aws_sdk_s3::Client;

use super::errors::failed;
use super::{size, timestamp};
use crate::object_store::error::{ErrorKind, Operation, Result, StoreError};
use crate::object_store::key::{KeyPrefix, ObjectKey};
use crate::object_store::{ListPage, ObjectMeta, PAGE_OBJECTS, PageMark, Part, Upload};

/// The first page, or the one after the page that gave `from`. Pages of nothing but foreign keys are passed over.
pub(super) async fn page(
    client: &Client,
    bucket: &str,
    prefix: &KeyPrefix,
    from: Option<&PageMark>,
) -> Result<ListPage> {
    let mut from = from.cloned();
    loop {
        let list = client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix.as_str())
            .set_continuation_token(from.as_ref().map(|mark| mark.token.clone()))
            .max_keys(i32::try_from(PAGE_OBJECTS).unwrap_or(i32::MAX));
        let output = list
            .send()
            .await
            .map_err(|error| failed(Operation::List, prefix, &error))?;
        let keys = || output.contents().iter().filter_map(|object| object.key());
        let mut next = None;
        if output.is_truncated() == Some(true) {
            let before = from.as_ref().map(|mark| mark.last_key.as_str());
            let mark = PageMark {
                last_key: keys().next_back().or(before).unwrap_or_default().to_owned(),
                token: output.next_continuation_token().unwrap_or_default().into(),
            };
            next = Some(mark);
        }
        check(prefix, from.as_ref(), (keys().next(), next.as_ref()))?;
        let objects = output.contents().iter().filter_map(|object| {
            let key = ObjectKey::new(object.key()?).ok()?;
            Some(ObjectMeta {
                key,
                size: size(object.size()),
                created_at: timestamp(object.last_modified()),
            })
        });
        let objects: Vec<ObjectMeta> = objects.collect();
        if !objects.is_empty() || next.is_none() {
            return Ok(ListPage { objects, next });
        }
        from = next;
    }
}

/// The parts of an upload, in the order of their numbers.
pub(super) async fn parts(client: &Client, bucket: &str, upload: &Upload) -> Result<Vec<Part>> {
    let key = &upload.key;
    let (mut parts, mut after) = (Vec::<Part>::new(), None::<String>);
    loop {
        let list = client
            .list_parts()
            .bucket(bucket)
            .key(key.as_str())
            .upload_id(&upload.id)
            .set_part_number_marker(after.clone());
        let output = list
            .send()
            .await
            .map_err(|error| failed(Operation::ListParts, key, &error))?;
        let part = |part: &aws_sdk_s3::types::Part| Part {
            number: part.part_number().unwrap_or(0).unsigned_abs(),
            size: size(part.size()),
            tag: part.e_tag().unwrap_or_default().to_owned(),
            checksum: part.checksum_crc32().map(ToOwned::to_owned),
        };
        parts.extend(output.parts().iter().map(part));
        let next = output.next_part_number_marker().map(ToOwned::to_owned);
        if output.is_truncated() != Some(true) || next.is_none() {
            parts.sort_by_key(|part| part.number);
            return Ok(parts);
        }
        if next == after {
            let detail = "the store gives a page of parts again instead of the next one";
            let kind = ErrorKind::Unsupported;
            return Err(StoreError::new(kind, Operation::ListParts, key, detail));
        }
        after = next;
    }
}

/// Whether a page comes after the one before, and the next can come after it.
fn check(
    prefix: &KeyPrefix,
    before: Option<&PageMark>,
    (first, next): (Option<&str>, Option<&PageMark>),
) -> Result<()> {
    let unsupported = |detail| {
        Err(StoreError::new(
            ErrorKind::Unsupported,
            Operation::List,
            prefix,
            detail,
        ))
    };
    if next.is_some_and(|next| next.token.is_empty()) {
        return unsupported("the store cuts a listing short and gives no token to go on with");
    }
    let Some(before) = before else { return Ok(()) };
    let is_again = first.is_some_and(|first| first <= before.last_key.as_str());
    if is_again || next.is_some_and(|next| next.token == before.token) {
        return unsupported("the store gives a page of a listing again instead of the next one");
    }
    Ok(())
}
