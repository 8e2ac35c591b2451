//! Answers the signed requests of a folder, over HTTP, as a bucket would: clients see one protocol.
//!
//! Bodies are streamed in either direction and never held whole. An object that is put is written under another name,
//! synced and then renamed over what was there; a part is written in its place of the upload's file, and counts once it is
//! whole. A request that breaks off leaves a file in `.unfinished`, which is removed, or a part that does not count.
//!
//! INV-BOUND: only so many bodies are received at once; one that is slower than [`SLOWEST`], or pauses for [`PAUSE`], is
//! given up.

use std::io::SeekFrom;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::super::error::{Operation, StoreError};
use super::super::key::ObjectKey;
use super::super::{UPLOAD_PARTS, Upload};
use super::address::{Purpose, Signer};
use super::blocking;
use super::files::Files;

pub use super::address::PATH;
pub use super::refusal::Refusal;

/// Slowest body that is received, in bytes a second, once [`PAUSE`] has passed.
pub const SLOWEST: u64 = 32 << 10;
/// Longest pause in a body that is received.
pub const PAUSE: Duration = Duration::from_secs(30);
/// Bytes that are read from a file at once.
const CHUNK: usize = 64 << 10;

/// The body of an answer.
pub type DoorBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Answers signed requests.
#[derive(Debug)]
pub struct Door {
    files: Arc<Files>,
    signer: Signer,
    part_size: u64,
    receiving: Semaphore,
}

impl Door {
    pub(super) fn new(
        files: Arc<Files>,
        signer: Signer,
        part_size: usize,
        max_requests: usize,
    ) -> Self {
        Self {
            files,
            signer,
            part_size: part_size as u64,
            receiving: Semaphore::new(max_requests.max(1)),
        }
    }

    pub(super) fn sign(&self, purpose: &Purpose, valid_for: Duration) -> String {
        self.signer.sign(purpose, valid_for)
    }

    /// Answers a request whose path begins with [`PATH`].
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn answer<B>(&self, request: Request<B>) -> Result<Response<DoorBody>, Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        let purpose = self
            .signer
            .check(parts.method.as_str(), parts.uri.path(), query)?;
        match purpose {
            Purpose::Put {
                key,
                bytes,
                content_type,
            } => {
                let given = parts.headers.get(CONTENT_TYPE);
                if given.map(HeaderValue::as_bytes) != Some(content_type.as_bytes()) {
                    return Err(Refusal::Signature);
                }
                check_length(&parts.headers, bytes)?;
                self.put(key, bytes, body).await
            }
            Purpose::Part {
                upload,
                number,
                bytes,
            } => {
                check_length(&parts.headers, bytes)?;
                self.part(upload, number, bytes, body).await
            }
            Purpose::Get {
                key,
                content_type,
                disposition,
            } => {
                let mut response = self
                    .get(&key, &parts.headers, parts.method == Method::HEAD)
                    .await?;
                let headers = response.headers_mut();
                for (name, value) in [
                    (CONTENT_TYPE, content_type),
                    (CONTENT_DISPOSITION, disposition),
                ] {
                    let value = HeaderValue::try_from(value).map_err(|_| Refusal::Signature)?;
                    headers.insert(name, value);
                }
                Ok(response)
            }
        }
    }

    async fn put<B>(
        &self,
        key: ObjectKey,
        bytes: u64,
        body: B,
    ) -> Result<Response<DoorBody>, Refusal>
    where
        B: Body<Data = Bytes> + Send,
    {
        let _turn = self.receiving.try_acquire().map_err(|_| Refusal::Busy)?;
        let (files, target) = (Arc::clone(&self.files), key.clone());
        let begin = move || files.begin(target);
        let (file, temporary) = blocking(Operation::Put, key.as_str(), begin).await?;
        let file = tokio::fs::File::from_std(file);
        receive(file, bytes, body, &key).await?;
        let (files, target) = (Arc::clone(&self.files), key.clone());
        let replace = move || files.replace(temporary, &target);
        blocking(Operation::Put, key.as_str(), replace).await?;
        Ok(Response::new(nothing()))
    }

    async fn part<B>(
        &self,
        upload: Upload,
        number: u32,
        bytes: u64,
        body: B,
    ) -> Result<Response<DoorBody>, Refusal>
    where
        B: Body<Data = Bytes> + Send,
    {
        if !(1..=UPLOAD_PARTS).contains(&number) || bytes > self.part_size {
            return Err(Refusal::Signature);
        }
        let _turn = self.receiving.try_acquire().map_err(|_| Refusal::Busy)?;
        let key = upload.key.clone();
        let (files, target) = (Arc::clone(&self.files), upload.clone());
        let open = move || files.open_part(&target, number);
        let file = blocking(Operation::UploadPart, key.as_str(), open).await?;
        let mut file = tokio::fs::File::from_std(file);
        let offset = u64::from(number - 1) * self.part_size;
        let failed = |error| failed(Operation::UploadPart, &key, &error);
        file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        receive(file, bytes, body, &key).await?;
        let files = Arc::clone(&self.files);
        let finish = move || files.finish_part(&upload, number, bytes);
        blocking(Operation::UploadPart, key.as_str(), finish).await?;
        Ok(Response::new(nothing()))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        asked: &HeaderMap,
        is_head: bool,
    ) -> Result<Response<DoorBody>, Refusal> {
        let (files, target) = (Arc::clone(&self.files), key.clone());
        let open = move || files.open_object(&target);
        let (file, size) = blocking(Operation::GetRange, key.as_str(), open).await?;
        // An object never changes, so its key is the mark of its content.
        let tag = format!("\"{}\"", key.as_str().replace('/', "."));
        let is_same = asked
            .get(IF_RANGE)
            .is_none_or(|given| given.as_bytes() == tag.as_bytes());
        let range = asked.get(RANGE).filter(|_| is_same);
        let range = match range.and_then(|range| range.to_str().ok()).map(parse_range) {
            Some(Some(range)) => Some(range.of(size).ok_or(Refusal::Range(size))?),
            _ => None,
        };
        let (first, length) = range.unwrap_or((0, size));
        let mut response = Response::new(nothing());
        if !is_head {
            let mut file = tokio::fs::File::from_std(file);
            let failed = |error| failed(Operation::GetRange, key, &error);
            file.seek(SeekFrom::Start(first)).await.map_err(failed)?;
            *response.body_mut() = send(file, length);
        }
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let last = first + length - 1;
            let stretch = format!("bytes {first}-{last}/{size}");
            insert(&mut response, CONTENT_RANGE, &stretch);
        }
        insert(&mut response, CONTENT_LENGTH, &length.to_string());
        insert(&mut response, ETAG, &tag);
        let headers = response.headers_mut();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let policy = HeaderValue::from_static("default-src 'none'; sandbox");
        headers.insert(CONTENT_SECURITY_POLICY, policy);
        Ok(response)
    }
}

fn insert(response: &mut Response<DoorBody>, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

fn failed(operation: Operation, key: &ObjectKey, error: &std::io::Error) -> Refusal {
    let kind = super::kind_of(error);
    Refusal::from(StoreError::new(kind, operation, key, error))
}

fn check_length(headers: &HeaderMap, bytes: u64) -> Result<(), Refusal> {
    let given = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    if given == Some(bytes.to_string().as_bytes()) {
        Ok(())
    } else {
        Err(Refusal::Signature)
    }
}

/// Writes a body of exactly `bytes` bytes to `file`, and syncs it.
async fn receive<B>(
    mut file: tokio::fs::File,
    bytes: u64,
    body: B,
    key: &ObjectKey,
) -> Result<(), Refusal>
where
    B: Body<Data = Bytes> + Send,
{
    let write = async {
        let (mut body, mut received) = (pin!(body), 0);
        while received < bytes {
            let frame = tokio::time::timeout(PAUSE, body.frame()).await;
            let Ok(Some(Ok(frame))) = frame else {
                return Err(Refusal::Body);
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            received += data.len() as u64;
            if received > bytes {
                return Err(Refusal::Signature);
            }
            let written = file.write_all(&data).await;
            written.map_err(|error| failed(Operation::Put, key, &error))?;
        }
        file.flush()
            .await
            .map_err(|error| failed(Operation::Put, key, &error))?;
        file.sync_all()
            .await
            .map_err(|error| failed(Operation::Put, key, &error))
    };
    let patience = PAUSE + Duration::from_secs(bytes / SLOWEST);
    tokio::time::timeout(patience, write)
        .await
        .unwrap_or(Err(Refusal::Body))
}

/// The next `length` bytes of `file`, a chunk at a time.
fn send(file: tokio::fs::File, length: u64) -> DoorBody {
    let chunks = stream::try_unfold((file, length), |(mut file, left)| async move {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        if most == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; most];
        file.read_exact(&mut chunk).await?;
        let frame = Frame::data(Bytes::from(chunk));
        Ok::<_, std::io::Error>(Some((frame, (file, left - most as u64))))
    });
    StreamBody::new(chunks).boxed_unsync()
}

fn nothing() -> DoorBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A range as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// From here, to here if it says so.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

impl Asked {
    /// The first byte and the length, in an object of `size` bytes.
    fn of(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first, last) => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                (first, end)
            }
            Self::Last(bytes) => (size - bytes.min(size), size),
        };
        (first < end).then(|| (first, end - first))
    }
}

/// `bytes=…` with one range; what is not understood, and several ranges, are passed over, as RFC 9110 allows.
fn parse_range(text: &str) -> Option<Asked> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some(Asked::Last(last.parse().ok()?));
    }
    let first = first.parse().ok()?;
    let last: Option<u64> = match last {
        "" => None,
        last => Some(last.parse().ok()?),
    };
    (last.is_none_or(|last| last >= first)).then_some(Asked::From(first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let of = |text: &str| parse_range(text).map(|asked| asked.of(10));
        assert_eq!(of("bytes=0-0"), Some(Some((0, 1))));
        assert_eq!(of("bytes=3-"), Some(Some((3, 7))));
        assert_eq!(of("bytes=3-99"), Some(Some((3, 7))));
        assert_eq!(of("bytes=-4"), Some(Some((6, 4))));
        assert_eq!(of("bytes=-40"), Some(Some((0, 10))));
        for unsatisfiable in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(of(unsatisfiable), Some(None), "{unsatisfiable}");
        }
        let most = u64::MAX;
        assert_eq!(of(&format!("bytes=9-{most}")), Some(Some((9, 1))));
        for ignored in [
            "bytes=4-3",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=",
            "bytes=a-b",
        ] {
            assert_eq!(of(ignored), None, "{ignored}");
        }
    }
}
