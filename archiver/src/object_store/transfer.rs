//! Whole uploads, downloads and listings, made of the calls of [`ObjectStore`].
//!
//! None of them holds more than a part of an object in memory, and each of their requests has its own deadline and is
//! retried by itself. An upload that fails is aborted; one that is cancelled, or whose process dies, leaves an
//! unfinished upload behind, which [`abort_unfinished`] removes.

use std::ops::Range;
use std::time::Duration;

use backscroll_shard::model::Timestamp;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::{KeyPrefix, ObjectKey};
use super::{ObjectMeta, ObjectStore, PageMark, Part, UPLOAD_PARTS, Upload};

/// Creates an object of what `content` yields, however long, and gives its size. Up to a part's size it is one request.
///
/// # Errors
/// When `content` or a request fails; nothing is then under the key, unless [`ObjectStore::complete_upload`] had its
/// effect unseen.
pub async fn put_stream<S>(store: &dyn ObjectStore, key: &ObjectKey, content: S) -> Result<u64>
where
    S: Stream<Item = std::io::Result<Bytes>> + Send,
{
    let content = content.map_err(|error| {
        StoreError::new(
            ErrorKind::Refused,
            Operation::Put,
            key,
            format_args!("reading what to store: {error}"),
        )
    });
    let mut parts = std::pin::pin!(parts_of(content, store.part_size()));
    let first = parts.next().await.transpose()?.unwrap_or_default();
    let Some(second) = parts.next().await.transpose()? else {
        let size = first.len() as u64;
        store.put(key, first).await?;
        return Ok(size);
    };
    let upload = store.start_upload(key).await?;
    let all = stream::iter([Ok(first), Ok(second)]).chain(parts);
    let result = upload_parts(store, &upload, all).await;
    if result.is_err()
        && let Err(error) = store.abort_upload(&upload).await
    {
        tracing::warn!(%error, "an unfinished upload stays behind");
    }
    result
}

async fn upload_parts(
    store: &dyn ObjectStore,
    upload: &Upload,
    content: impl Stream<Item = Result<Bytes>> + Send,
) -> Result<u64> {
    let mut content = std::pin::pin!(content);
    let mut parts: Vec<Part> = Vec::new();
    for number in 1.. {
        let Some(bytes) = content.next().await.transpose()? else {
            break;
        };
        if number > UPLOAD_PARTS {
            let detail = format_args!(
                "larger than {UPLOAD_PARTS} parts of {} bytes (object_store.part_size)",
                store.part_size()
            );
            return Err(StoreError::new(
                ErrorKind::Refused,
                Operation::UploadPart,
                &upload.key,
                detail,
            ));
        }
        parts.push(store.upload_part(upload, number, bytes).await?);
    }
    store.complete_upload(upload, &parts).await?;
    Ok(parts.iter().map(|part| part.size).sum())
}

/// `content` in pieces of exactly `size` bytes, the last one excepted.
fn parts_of(
    content: impl Stream<Item = Result<Bytes>> + Send,
    size: usize,
) -> impl Stream<Item = Result<Bytes>> + Send {
    let state = (Box::pin(content.fuse()), BytesMut::new());
    stream::try_unfold(state, move |(mut content, mut held)| async move {
        while held.len() < size {
            let Some(bytes) = content.next().await.transpose()? else {
                break;
            };
            held.extend_from_slice(&bytes);
        }
        let part = held.split_to(held.len().min(size)).freeze();
        Ok((!part.is_empty()).then_some((part, (content, held))))
    })
}

/// An object's size and its content, read in ranges of a part's size each, one ahead of who reads.
///
/// # Errors
/// When there is no such object, or a range cannot be read; the stream then ends with the error.
pub async fn get_stream<'a>(
    store: &'a dyn ObjectStore,
    key: &'a ObjectKey,
) -> Result<(ObjectMeta, impl Stream<Item = Result<Bytes>> + Send + 'a)> {
    let meta = store.head(key).await?;
    let (size, step) = (meta.size, store.part_size());
    let starts = (0..size).step_by(step);
    let reads = starts.map(move |start| store.get_range(key, start..size.min(start + step as u64)));
    Ok((meta, stream::iter(reads).buffered(2)))
}

/// The bytes of some ranges of an object, in order of their places, with one request for all from the first to the last.
///
/// # Errors
/// When there is no such object, or it ends before they do.
pub async fn get_ranges(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    ranges: &[Range<u64>],
) -> Result<Vec<Bytes>> {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return Ok(Vec::new());
    };
    let start = first.start;
    let bytes = store.get_range(key, start..last.end).await?;
    let place = |at: u64| {
        usize::try_from(at.saturating_sub(start))
            .map_or(bytes.len(), |place| place.min(bytes.len()))
    };
    let cut = |range: &Range<u64>| bytes.slice(place(range.start)..place(range.end));
    Ok(ranges.iter().map(cut).collect())
}

/// All objects whose keys begin with `prefix`, in order of their keys, read page by page.
pub fn list<'a>(
    store: &'a dyn ObjectStore,
    prefix: &'a KeyPrefix,
) -> impl Stream<Item = Result<ObjectMeta>> + Send + 'a {
    let pages = stream::try_unfold(Some(None::<PageMark>), move |state| async move {
        let Some(from) = state else { return Ok(None) };
        let page = store.list_page(prefix, from.as_ref()).await?;
        let objects = stream::iter(page.objects.into_iter().map(Ok));
        Ok(Some((objects, page.next.map(Some))))
    });
    pages.try_flatten()
}

/// Aborts the uploads, of those whose keys `concerns` the caller, that were started longer than `age` ago and not finished,
/// and gives their number. Such an upload belongs to a process or client that gave it up, if `age` is longer than any takes.
///
/// # Errors
/// When they cannot be listed ([`ErrorKind::Unsupported`] where the store does not do so), or one cannot be aborted.
pub async fn abort_unfinished(
    store: &dyn ObjectStore,
    concerns: impl Fn(&ObjectKey) -> bool,
    age: Duration,
    now: Timestamp,
) -> Result<u64> {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(now.0.saturating_sub(age));
    let mut aborted = 0;
    let mut page = store.unfinished_uploads(None).await?;
    while let Some(last) = page.last() {
        // Read while the upload that it follows is there: Garage passes over uploads that follow one that is gone.
        let next = store.unfinished_uploads(Some(&last.upload)).await?;
        if next.iter().any(|upload| page.contains(upload)) {
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                Operation::ListUploads,
                "",
                "the store gives a page of unfinished uploads again instead of the next one",
            ));
        }
        for unfinished in page
            .iter()
            .filter(|unfinished| unfinished.started_at < before)
            .filter(|unfinished| concerns(&unfinished.upload.key))
        {
            store.abort_upload(&unfinished.upload).await?;
            aborted += 1;
        }
        page = next;
    }
    Ok(aborted)
}
