//! Objects in a bucket of S3, or of a store that speaks its protocol.
//!
//! - INV-OBJECT: objects and uploads are created with `If-None-Match: *`. Stores that do not know it refuse the call or
//!   ignore it, which [`probe`](super::probe) finds out. `conditional_put = false` is for them: the header is left out,
//!   and a look whether the key is free comes before. That stops a mistake, not two writers at the same time. Callers
//!   choose unique keys, so either is a second belt, not the first.
//! - A put that finds its key taken compares the content: it may be its own earlier attempt.
//! - What arrives is checked for its length against the range asked for, and for the checksums that the store sends.
//!   Ranges have none: whoever keeps digests checks them.
//! - A crash leaves behind at most an unfinished multipart upload.
//!
//! Signed requests carry no checksum: the SDK would sign that of an empty body. So uploads by signed parts are begun without
//! one, too, and what arrived is checked by its reader.
//!
//! Retries and deadlines of the SDK are off: the layers around this do both. Credentials come from the settings, or from
//! the SDK's usual chain: environment, shared profile, web identity, container, machine.
//!
//! Where stores differ. The suite in `archiver/tests` runs on `s3s-fs`, which does what Amazon documents, and on Garage
//! 2.5.0 (`make test-garage`):
//!
//! | | Amazon S3 | Garage | here |
//! |---|---|---|---|
//! | `If-None-Match` on `PutObject` and `CompleteMultipartUpload` | 412 where the key is taken | ignored: it overwrites | the probe says so; `conditional_put = false` |
//! | an upload whose key is put meanwhile | 412 at its end | forgotten at once: 404 at its end | [`ErrorKind::AlreadyExists`] |
//! | CRC32 sent with objects and parts | checked, `BadDigest` | checked, `InvalidDigest` | both modes of `checksum` work; [`ErrorKind::Damaged`] |
//! | a range that ends behind the object | what there is, or 416 | likewise | [`ErrorKind::OutOfRange`] |
//! | bucket in the path, or in the host name | both | in the host name below its `root_domain` only | `path_style = true` |
//! | another region | refused | refused, `AuthorizationHeaderMalformed` | [`ErrorKind::Misconfigured`] |
//! | a quota that is used up | (has none) | `AccessDenied` and a message | [`ErrorKind::Full`], by the message |
//! | a page of uploads | by keys | of the next keys, but in the order of the ids | put in order |
//! | the end of a page of uploads | a key and an id | the key alone, unless it has more uploads | either |
//! | uploads after one that is gone | all that follow | some of the next key are left out | the next page is read before this one's uploads are aborted |
//!
//! | `start-after` | begins a listing | likewise; others pass over it | never used: pages go on by the store's own token |
//! | deleting in a bucket with versions | keeps the content, adds a marker | (has none) | every version is deleted ([`versions`]) |
//!
//! An `ETag` means nothing here: a part's is handed back as it came. Deleting has no conditions.

mod client;
mod errors;
mod listing;
mod range;
mod signing;
mod versions;

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use backscroll_shard::model::Timestamp;
use bytes::Bytes;

use super::disk::door::Door;
use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::{KeyPrefix, ObjectKey};
use super::settings::{ChecksumMode, ObjectStoreSettings};
use super::{
    Deletion, ListPage, ObjectMeta, ObjectStore, PageMark, Part, SignedAnswer, SignedContent,
    SignedRequest, UnfinishedUpload, Upload,
};
use errors::failed;
use range::check_range;

/// "Only if there is none."
const ANY: &str = "*";

/// A store in a bucket.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    /// Begins uploads by signed parts; asks for no checksums.
    plain: Client,
    /// Signs requests for clients, who may reach the store by another address than this process.
    public: Client,
    bucket: String,
    endpoint: Option<String>,
    checksum: Option<ChecksumAlgorithm>,
    condition: Option<&'static str>,
    part_size: usize,
    /// Whether the bucket keeps versions, and when it said so.
    versions: Mutex<Option<(Instant, bool)>>,
}

impl S3Store {
    /// Makes a client. Nothing is asked of the store, and credentials are looked for with the first request.
    ///
    /// # Errors
    /// None at present.
    pub async fn open(settings: &ObjectStoreSettings) -> Result<Self> {
        let sdk = client::sdk_config(settings).await;
        let client =
            Client::from_conf(client::config(&sdk, settings, settings.endpoint.as_deref()).build());
        let public = settings
            .public_endpoint
            .as_deref()
            .or(settings.endpoint.as_deref());
        let without_checksums = ObjectStoreSettings {
            checksum: ChecksumMode::WhenRequired,
            ..settings.clone()
        };
        let plain = |endpoint| {
            Client::from_conf(client::config(&sdk, &without_checksums, endpoint).build())
        };
        Ok(Self {
            client,
            plain: plain(settings.endpoint.as_deref()),
            public: plain(public),
            bucket: settings.bucket.clone(),
            endpoint: settings.endpoint.clone(),
            checksum: (settings.checksum == ChecksumMode::WhenSupported)
                .then_some(ChecksumAlgorithm::Crc32),
            condition: settings.conditional_put.then_some(ANY),
            part_size: settings.part_size,
            versions: Mutex::default(),
        })
    }

    /// Stands in for the condition where the store has none. It is no lock: of two writers at once, the later one wins.
    async fn check_free(&self, operation: Operation, key: &ObjectKey) -> Result<()> {
        if self.condition.is_some() {
            return Ok(());
        }
        // A byte rather than the head: a HEAD that fails does not say why.
        match self.get_range(key, 0..1).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() != ErrorKind::OutOfRange => Err(error.during(operation)),
            _ => Err(StoreError::new(
                ErrorKind::AlreadyExists,
                operation,
                key,
                "there is an object under this key",
            )),
        }
    }

    async fn create(&self, key: &ObjectKey, content: &Bytes) -> Result<()> {
        self.check_free(Operation::Put, key).await?;
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str());
        let put = put
            .set_if_none_match(self.condition.map(Into::into))
            .body(ByteStream::from(content.clone()));
        match put.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed(Operation::Put, key, &error)),
        }
    }

    async fn complete(&self, upload: &Upload, parts: CompletedMultipartUpload) -> Result<()> {
        self.check_free(Operation::CompleteUpload, &upload.key)
            .await?;
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(upload.key.as_str());
        let complete = complete
            .upload_id(&upload.id)
            .multipart_upload(parts)
            .set_if_none_match(self.condition.map(Into::into));
        match complete.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed(Operation::CompleteUpload, &upload.key, &error)),
        }
    }

    /// Whether the object has this content. `false` also when there is none any more.
    async fn has(&self, key: &ObjectKey, content: &Bytes) -> Result<bool> {
        match self.head(key).await {
            Ok(meta) if meta.size != content.len() as u64 => Ok(false),
            Ok(meta) => Ok(self.get_range(key, 0..meta.size).await? == *content),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn location(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("bucket {} at {endpoint}", self.bucket),
            None => format!("bucket {} at Amazon S3", self.bucket),
        }
    }

    fn part_size(&self) -> usize {
        self.part_size
    }

    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<()> {
        let Err(error) = self.create(key, &content).await else {
            return Ok(());
        };
        if error.kind() == ErrorKind::AlreadyExists
            && self
                .has(key, &content)
                .await
                .map_err(|error| error.during(Operation::Put))?
        {
            return Ok(());
        }
        Err(error)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let get = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .range(header);
        let mut output = get
            .send()
            .await
            .map_err(|error| failed(Operation::GetRange, key, &error))?;
        check_range(key, &range, &output)?;
        let body = std::mem::replace(&mut output.body, ByteStream::from_static(b""));
        let broken = |detail: &dyn std::fmt::Display| {
            StoreError::new(ErrorKind::Damaged, Operation::GetRange, key, detail)
        };
        let content = body
            .collect()
            .await
            .map_err(|error| broken(&errors::chain(&error)))?
            .into_bytes();
        let expected = range.end - range.start;
        if content.len() as u64 != expected {
            return Err(broken(&format_args!(
                "{} bytes came instead of {expected}",
                content.len()
            )));
        }
        Ok(content)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let head = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key.as_str());
        let output = head
            .send()
            .await
            .map_err(|error| failed(Operation::Head, key, &error))?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: size(output.content_length()),
            created_at: timestamp(output.last_modified()),
        })
    }

    async fn list_page(&self, prefix: &KeyPrefix, from: Option<&PageMark>) -> Result<ListPage> {
        listing::page(&self.client, &self.bucket, prefix, from).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        if self.keeps_versions().await? || self.delete_one(key, None).await? {
            return self.delete_versions(key).await;
        }
        Ok(())
    }

    async fn deletion(&self) -> Result<Deletion> {
        self.ask_deletion().await
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Upload> {
        let create = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str());
        let create = create.set_checksum_algorithm(self.checksum.clone());
        signing::started(key, create.send().await)
    }

    async fn upload_part(&self, upload: &Upload, number: u32, content: Bytes) -> Result<Part> {
        let size = content.len() as u64;
        let part = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(upload.key.as_str())
            .upload_id(&upload.id);
        let part = part
            .set_checksum_algorithm(self.checksum.clone())
            .part_number(part_number(number))
            .body(content.into());
        let output = part
            .send()
            .await
            .map_err(|error| failed(Operation::UploadPart, &upload.key, &error))?;
        let tag = output.e_tag.unwrap_or_default();
        Ok(Part {
            number,
            size,
            tag,
            checksum: output.checksum_crc32,
        })
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<()> {
        let completed = |part: &Part| {
            let tag = (!part.tag.is_empty()).then(|| part.tag.clone());
            let part_of = CompletedPart::builder()
                .part_number(part_number(part.number))
                .set_e_tag(tag);
            part_of.set_checksum_crc32(part.checksum.clone()).build()
        };
        let all = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.iter().map(completed).collect()))
            .build();
        let Err(error) = self.complete(upload, all).await else {
            return Ok(());
        };
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) {
            return Err(error);
        }
        // It may have been completed by an earlier attempt. Keys are unique, so an object of this size under it is that.
        let size: u64 = parts.iter().map(|part| part.size).sum();
        match self.head(&upload.key).await {
            Ok(meta) if meta.size == size => Ok(()),
            // Garage forgets an upload whose key is taken meanwhile.
            Ok(_) => Err(StoreError::new(
                ErrorKind::AlreadyExists,
                Operation::CompleteUpload,
                &upload.key,
                error,
            )),
            Err(_) => Err(error),
        }
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let abort = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(upload.key.as_str())
            .upload_id(&upload.id);
        match abort
            .send()
            .await
            .map_err(|error| failed(Operation::AbortUpload, &upload.key, &error))
        {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn unfinished_uploads(&self, after: Option<&Upload>) -> Result<Vec<UnfinishedUpload>> {
        let mut after_key = after.map(|upload| upload.key.as_str().to_owned());
        let mut after_id = after.map(|upload| upload.id.clone());
        loop {
            let list = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .set_key_marker(after_key)
                .set_upload_id_marker(after_id);
            let output = list
                .send()
                .await
                .map_err(|error| failed(Operation::ListUploads, "", &error))?;
            let uploads = output.uploads().iter().filter_map(|upload| {
                let key = ObjectKey::new(upload.key()?).ok()?;
                let id = upload.upload_id()?.to_owned();
                Some(UnfinishedUpload {
                    upload: Upload { key, id },
                    started_at: timestamp(upload.initiated()),
                })
            });
            let mut found: Vec<UnfinishedUpload> = uploads.collect();
            // Garage has a page in the order of the ids, but counts pages in the order of the keys.
            found.sort_by(|a, b| a.upload.key.cmp(&b.upload.key));
            // A page of nothing but foreign keys is passed over. Where it ends with the last upload of a key, Garage
            // gives the key alone.
            let more = output.is_truncated == Some(true) && output.next_key_marker.is_some();
            if !found.is_empty() || !more {
                return Ok(found);
            }
            (after_key, after_id) = (output.next_key_marker, output.next_upload_id_marker);
        }
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        listing::parts(&self.client, &self.bucket, upload).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey, bytes: u64) -> Result<()> {
        let taken = match self.head(to).await {
            Ok(meta) => Some(meta.size),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.during(Operation::Copy)),
        };
        match taken {
            Some(size) if size == bytes => return Ok(()),
            Some(size) => {
                let detail = format_args!("there is an object of {size} bytes under this key");
                let kind = ErrorKind::AlreadyExists;
                return Err(StoreError::new(kind, Operation::Copy, to, detail));
            }
            None => {}
        }
        let copy = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(to.as_str())
            .copy_source(format!("{}/{from}", self.bucket));
        match copy.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed(Operation::Copy, from, &error)),
        }
    }

    async fn start_signed_upload(&self, key: &ObjectKey, content_type: &str) -> Result<Upload> {
        signing::start_upload(&self.plain, &self.bucket, key, content_type).await
    }

    async fn sign_put(
        &self,
        key: &ObjectKey,
        content: &SignedContent<'_>,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        signing::put(&self.public, &self.bucket, key, content, valid_for).await
    }

    async fn sign_part(
        &self,
        upload: &Upload,
        number: u32,
        bytes: u64,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        let part = (number, bytes);
        signing::part(&self.public, &self.bucket, upload, part, valid_for).await
    }

    async fn sign_get(
        &self,
        key: &ObjectKey,
        answer: &SignedAnswer<'_>,
        valid_for: Duration,
    ) -> Result<String> {
        signing::get(&self.public, &self.bucket, key, answer, valid_for).await
    }

    fn door(&self) -> Option<Arc<Door>> {
        None
    }
}

fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn size(length: Option<i64>) -> u64 {
    length
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0)
}

fn timestamp(time: Option<&DateTime>) -> Timestamp {
    Timestamp(time.and_then(|time| time.to_millis().ok()).unwrap_or(0))
}
