//! Objects: byte strings that are created once under a key, never changed, and deleted when nothing names them any more.
//!
//! The archive keeps its segments here, and media their files. Two backends hold them: [`disk`] for the embedded
//! default, [`s3`] for S3 and what speaks its protocol. What they have in common is around them: [`deadline`],
//! [`metered`], [`limit`], [`retry`] and [`single_flight`] are layers ([`layer`]), put together by [`open`]; [`faults`]
//! is one more, for tests. [`transfer`] builds whole uploads, downloads and listings from the calls of
//! [`ObjectStore`]; [`probe`] tries a configured store out.
//!
//! Clients put and get objects without this process in between, through signed requests ([`signed`]): a bucket answers
//! them itself, and for a folder [`disk::door`] does.
//!
//! - INV-OBJECT: there is no call that changes an object. [`ObjectStore::put`] and [`ObjectStore::complete_upload`]
//!   create; where a key is taken by other content they fail. A store that cannot refuse (`conditional_put = false`) is
//!   asked before; between writers at the same time it is safe because they choose keys that are unique.
//! - Every call carries a bounded number of bytes, so that memory, deadlines and retries are bounded too (INV-BOUND):
//!   a large object is uploaded in parts and read in ranges.
//! - Every call may be made again: creating the same content twice succeeds, a part replaces its earlier attempt, what
//!   is gone can be deleted.
//!
//! A crash leaves behind at most an unfinished upload, which no reader sees; [`transfer::abort_unfinished`] removes it.
//! A bucket's life-cycle rule "abort incomplete multipart uploads" does so too.

pub mod deadline;
pub mod disk;
mod error;
pub mod faults;
mod key;
pub mod layer;
pub mod limit;
pub mod metered;
pub mod probe;
pub mod retry;
pub mod s3;
mod settings;
pub mod signed;
pub mod single_flight;
pub mod transfer;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backscroll_shard::model::Timestamp;
use backscroll_shard::settings::check;
use bytes::Bytes;

pub use error::{ErrorKind, Operation, Result, StoreError};
pub use key::{InvalidKey, KEY_MAX_BYTES, KeyPrefix, ObjectKey};
pub(crate) use settings::is_address;
pub use settings::{ChecksumMode, ObjectStoreSettings, Secret, StoreKind};
pub use signed::{SignedAnswer, SignedContent, SignedRequest};

use deadline::Deadline;
use disk::door::Door;
use layer::Layered;
use limit::Limit;
use metered::Metered;
use retry::Retry;
use single_flight::SingleFlight;

/// Most objects in a page of a listing.
pub const PAGE_OBJECTS: usize = 1000;

/// Most parts of an upload.
pub const UPLOAD_PARTS: u32 = 10_000;

/// Most bytes of an object that is copied in one request.
pub const COPY_BYTES: u64 = 5 << 30;

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// When it was created, by the store's clock.
    pub created_at: Timestamp,
}

/// A stretch of a listing, in the order of the keys' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// At most [`PAGE_OBJECTS`] objects.
    pub objects: Vec<ObjectMeta>,
    /// Where it goes on; `None` at the end.
    pub next: Option<PageMark>,
}

/// Where a listing goes on: the store's own word for it, of use to the store that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageMark {
    /// The last key of the page before, be it an object's of ours or not.
    last_key: String,
    /// What the store wants to be given; empty where that is the key.
    token: String,
}

/// What becomes of objects that are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// They are gone.
    Final,
    /// The bucket keeps versions: [`ObjectStore::delete`] deletes all of an object's, one by one. What others delete there,
    /// or what was deleted by versions of this program that did not do so, stays.
    Versions,
    /// The bucket's object lock keeps every object for a time, whatever is asked.
    Locked,
}

/// An object that is being uploaded in parts. No reader sees it before it is complete.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upload {
    /// The key that it will have.
    pub key: ObjectKey,
    /// The store's name for the upload.
    pub id: String,
}

/// An upload that was neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The upload.
    pub upload: Upload,
    /// When it was started, by the store's clock.
    pub started_at: Timestamp,
}

/// A part that was taken by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1.
    pub number: u32,
    /// Its size in bytes.
    pub size: u64,
    /// The store's mark of its content.
    pub tag: String,
    /// The checksum under which it travelled, where one did.
    pub checksum: Option<String>,
}

/// Named byte strings that never change.
///
/// A call that fails may have had its effect; making it again is safe. Cancelling a call is as if it had failed.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// Where it is, for people: a folder, or a bucket and its endpoint.
    fn location(&self) -> String;

    /// The size in bytes of every part of an upload except the last, which may be smaller.
    fn part_size(&self) -> usize;

    /// Creates an object. To do so again with the same content is no error.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the key has other content, where the store can tell (INV-OBJECT).
    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<()>;

    /// The bytes of an object from `range.start` to before `range.end`: all of them, or an error. An empty range is
    /// read without asking the store.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::OutOfRange`] when the object ends before the range does.
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes>;

    /// What is known of an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta>;

    /// The first objects whose keys begin with `prefix`, or those after the page that gave `from`. What is created or
    /// deleted meanwhile may be in it or not. Objects that this program cannot have made, by their keys, are left out.
    ///
    /// # Errors
    /// When the store cannot be read; [`ErrorKind::Unsupported`] when its pages do not go on.
    async fn list_page(&self, prefix: &KeyPrefix, from: Option<&PageMark>) -> Result<ListPage>;

    /// Deletes an object for good, with all versions of it that the store keeps. That there is none is no error.
    ///
    /// # Errors
    /// When it, or a version of it, may still be there.
    async fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// What becomes of objects that are deleted.
    ///
    /// # Errors
    /// When the store does not say; one that does not know the question keeps nothing.
    async fn deletion(&self) -> Result<Deletion>;

    /// Begins to upload an object in parts.
    ///
    /// # Errors
    /// When it cannot be begun. The key is looked at in the end only.
    async fn start_upload(&self, key: &ObjectKey) -> Result<Upload>;

    /// Uploads part `number`, from 1 to [`UPLOAD_PARTS`]; each but the last has [`ObjectStore::part_size`] bytes. A part
    /// that is uploaded again replaces the earlier one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the upload was completed or aborted.
    async fn upload_part(&self, upload: &Upload, number: u32, content: Bytes) -> Result<Part>;

    /// Makes the object of its parts, 1 to the last without a gap. To do so again is no error.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the key is taken, where the store can tell (INV-OBJECT);
    /// [`ErrorKind::NotFound`] when the upload was aborted.
    async fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<()>;

    /// Gives an upload up and frees what it took. That there is none is no error.
    ///
    /// # Errors
    /// When it may still be there.
    async fn abort_upload(&self, upload: &Upload) -> Result<()>;

    /// Some of the uploads that are neither completed nor aborted and come after `after`; empty at the end.
    ///
    /// # Errors
    /// When the store cannot be read, or does not list them ([`ErrorKind::Unsupported`]).
    async fn unfinished_uploads(&self, after: Option<&Upload>) -> Result<Vec<UnfinishedUpload>>;

    /// The parts that an upload has so far, in the order of their numbers.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the upload was completed or aborted.
    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>>;

    /// Creates the object `to` with the content of the object `from`, which has `bytes` bytes (at most [`COPY_BYTES`]). The
    /// store copies by itself. To do so again is no error.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`] when `to` is taken by an object of another size.
    async fn copy(&self, from: &ObjectKey, to: &ObjectKey, bytes: u64) -> Result<()>;

    /// Begins an upload whose parts come by [`ObjectStore::sign_part`]. Otherwise as [`ObjectStore::start_upload`].
    ///
    /// # Errors
    /// When it cannot be begun.
    async fn start_signed_upload(&self, key: &ObjectKey, content_type: &str) -> Result<Upload>;

    /// The request by which anybody may create the object, or replace it, until `valid_for` has passed: with exactly so
    /// many bytes, of exactly this type.
    ///
    /// # Errors
    /// When it cannot be signed.
    async fn sign_put(
        &self,
        key: &ObjectKey,
        content: &SignedContent<'_>,
        valid_for: Duration,
    ) -> Result<SignedRequest>;

    /// The request by which anybody may upload part `number` with exactly `bytes` bytes, until `valid_for` has passed.
    /// Each part but the last has [`ObjectStore::part_size`] bytes.
    ///
    /// # Errors
    /// When it cannot be signed.
    async fn sign_part(
        &self,
        upload: &Upload,
        number: u32,
        bytes: u64,
        valid_for: Duration,
    ) -> Result<SignedRequest>;

    /// The address from which anybody may read the object, or ranges of it, until `valid_for` has passed. It is answered with
    /// this type and disposition.
    ///
    /// # Errors
    /// When it cannot be signed.
    async fn sign_get(
        &self,
        key: &ObjectKey,
        answer: &SignedAnswer<'_>,
        valid_for: Duration,
    ) -> Result<String>;

    /// What answers the signed requests; `None` where the store itself does.
    fn door(&self) -> Option<Arc<Door>>;
}

/// Opens the configured store with everything around it. Nothing is asked of it yet: [`probe::probe`] does.
///
/// # Errors
/// When the settings are wrong (see [`ObjectStoreSettings::check`]), or the folder cannot be made.
pub async fn open(settings: &ObjectStoreSettings) -> Result<Arc<dyn ObjectStore>> {
    let problems = settings.check();
    if !problems.is_empty() {
        return Err(StoreError::new(
            ErrorKind::Misconfigured,
            Operation::Open,
            "object store",
            check::lines(&problems).join("; "),
        ));
    }
    let backend: Arc<dyn ObjectStore> = match settings.kind {
        StoreKind::Disk => Arc::new(disk::DiskStore::open(settings).await?),
        StoreKind::S3 => Arc::new(s3::S3Store::open(settings).await?),
    };
    Ok(compose(backend, settings))
}

/// Puts the layers around a backend. From the inside: each request has a deadline and is counted, only so many are
/// under way at once, those that failed in passing are made again, and who reads the same bytes shares one request.
#[must_use]
pub fn compose(
    backend: Arc<dyn ObjectStore>,
    settings: &ObjectStoreSettings,
) -> Arc<dyn ObjectStore> {
    let store = Layered::around(
        backend,
        Deadline::new(settings.request_timeout.0, settings.min_throughput),
    );
    let store = Layered::around(store, Metered);
    let store = Layered::around(
        store,
        Limit::new(settings.max_requests, settings.request_timeout.0),
    );
    let store = Layered::around(store, Retry::new(settings.max_attempts));
    Layered::around(store, SingleFlight::new(Limit::most(settings.max_requests)))
}
