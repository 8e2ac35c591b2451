//! Tries a configured store out, with objects of its own that it removes again: what `backscroll doctor` reports.
//!
//! A crash in the middle leaves one small object, or one unfinished upload, under `probe/`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::{KeyPrefix, ObjectKey};
use super::transfer::{get_stream, list};
use super::{Deletion, ObjectStore, Upload};

/// The step that failed, or all that went well.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The steps that were taken, in order; the last one is the one that failed, if one did.
    pub steps: Vec<ProbeStep>,
}

impl ProbeReport {
    /// The step that failed.
    #[must_use]
    pub fn failure(&self) -> Option<&ProbeStep> {
        self.steps
            .iter()
            .find(|step| matches!(step.outcome, ProbeOutcome::Failed { .. }))
    }
}

/// Something that was tried.
#[derive(Clone, Debug)]
pub struct ProbeStep {
    /// What, in words: `put an object`.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// How it went.
    pub outcome: ProbeOutcome,
}

/// How a step went.
#[derive(Clone, Debug)]
pub enum ProbeOutcome {
    /// As it should.
    Passed,
    /// The store can be used, with this reservation.
    Reservation(String),
    /// It cannot be used.
    Failed {
        /// What happened.
        error: StoreError,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// Tries every call that Backscroll makes of `store`. It stops at the first that fails, and removes what it made.
pub async fn probe(store: &dyn ObjectStore) -> ProbeReport {
    let mut probe = Probe::new(store);
    let key = probe.key.clone();
    if probe.take_all().await.is_err() {
        // What could not be removed here is as broken as the step that failed, which is reported.
        let _ = store.delete(&key).await;
        if let Some(upload) = &probe.upload {
            let _ = store.abort_upload(upload).await;
        }
    }
    ProbeReport { steps: probe.steps }
}

/// A step has failed and is written down.
struct Stop;

struct Probe<'a> {
    store: &'a dyn ObjectStore,
    key: ObjectKey,
    content: Bytes,
    upload: Option<Upload>,
    steps: Vec<ProbeStep>,
}

impl<'a> Probe<'a> {
    fn new(store: &'a dyn ObjectStore) -> Self {
        let name = format!("probe/{:032x}", rand::random::<u128>());
        #[expect(
            clippy::expect_used,
            reason = "a word, a slash and hexadecimal digits are a key"
        )]
        let key = ObjectKey::new(name).expect("valid");
        // Not the same every time: an answer from somebody's cache would show.
        let content = format!("backscroll tries this store out: {key}\n")
            .repeat(100)
            .into();
        Self {
            store,
            key,
            content,
            upload: None,
            steps: Vec::new(),
        }
    }

    fn record(
        &mut self,
        name: &'static str,
        begun: Instant,
        result: Result<Option<String>>,
    ) -> Result<(), Stop> {
        let (outcome, result) = match result {
            Ok(None) => (ProbeOutcome::Passed, Ok(())),
            Ok(Some(reservation)) => (ProbeOutcome::Reservation(reservation), Ok(())),
            Err(error) => {
                let remedy = remedy(&error);
                (ProbeOutcome::Failed { error, remedy }, Err(Stop))
            }
        };
        self.steps.push(ProbeStep {
            name,
            took: begun.elapsed(),
            outcome,
        });
        result
    }

    async fn step(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<Option<String>>>,
    ) -> Result<(), Stop> {
        let begun = Instant::now();
        let result = work.await;
        self.record(name, begun, result)
    }

    async fn take_all(&mut self) -> Result<(), Stop> {
        let (store, key, content) = (self.store, self.key.clone(), self.content.clone());
        self.step("put an object", async {
            store.put(&key, content.clone()).await.map(|()| None)
        })
        .await?;
        self.step(
            "refuse to overwrite it",
            refuse_to_overwrite(store, &key, &content),
        )
        .await?;
        self.step("read its size", read_size(store, &key, &content))
            .await?;
        self.step("get it", get(store, &key, &content)).await?;
        self.step("get a range of it", get_range(store, &key, &content))
            .await?;
        self.step("list it", find(store, &key)).await?;
        self.step("delete it", delete(store, &key)).await?;
        self.step("ask whether versions are kept", ask_deletion(store))
            .await?;
        self.take_upload(&key, &content).await?;
        self.step("delete what was uploaded", delete(store, &key))
            .await?;
        self.step("list unfinished uploads", list_uploads(store))
            .await
    }

    async fn take_upload(&mut self, key: &ObjectKey, content: &Bytes) -> Result<(), Stop> {
        let (store, begun) = (self.store, Instant::now());
        let result = store.start_upload(key).await;
        self.upload = result.as_ref().ok().cloned();
        self.record("start an upload in parts", begun, result.map(|_| None))?;
        let Some(upload) = self.upload.clone() else {
            return Err(Stop);
        };
        self.step("finish it", async {
            let part = store.upload_part(&upload, 1, content.clone()).await?;
            store.complete_upload(&upload, &[part]).await?;
            read_size(store, key, content).await
        })
        .await
    }
}

fn wrong(operation: Operation, key: &ObjectKey, detail: &str) -> StoreError {
    StoreError::new(ErrorKind::Damaged, operation, key, detail)
}

async fn refuse_to_overwrite(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &Bytes,
) -> Result<Option<String>> {
    match store.put(key, Bytes::from_static(b"another content")).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
        Ok(()) => {
            // The steps that follow look for the first content.
            store.put(key, content.clone()).await?;
            Ok(Some("the store ignores If-None-Match and overwrites objects; Backscroll never asks it to, but nothing would stop a mistake: with object_store.conditional_put = false it looks before it writes".into()))
        }
    }
}

async fn read_size(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &Bytes,
) -> Result<Option<String>> {
    let size = store.head(key).await?.size;
    if size == content.len() as u64 {
        Ok(None)
    } else {
        Err(wrong(Operation::Head, key, "another size than was stored"))
    }
}

async fn get(store: &dyn ObjectStore, key: &ObjectKey, content: &Bytes) -> Result<Option<String>> {
    let (_, stream) = get_stream(store, key).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    if pieces.concat() == *content {
        Ok(None)
    } else {
        Err(wrong(
            Operation::GetRange,
            key,
            "another content than was stored",
        ))
    }
}

async fn get_range(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &Bytes,
) -> Result<Option<String>> {
    let part = store.get_range(key, 10..110).await?;
    if part == content.slice(10..110) {
        Ok(None)
    } else {
        Err(wrong(
            Operation::GetRange,
            key,
            "other bytes than were stored",
        ))
    }
}

async fn find(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<String>> {
    let prefix = KeyPrefix::new(key.as_str()).unwrap_or_default();
    let found: Vec<_> = list(store, &prefix).try_collect().await?;
    if found.iter().any(|object| object.key == *key) {
        Ok(None)
    } else {
        Err(wrong(Operation::List, key, "it is not in the list"))
    }
}

async fn delete(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<String>> {
    store.delete(key).await?;
    match store.head(key).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(_) => Err(wrong(Operation::Delete, key, "it is still there")),
    }
}

async fn ask_deletion(store: &dyn ObjectStore) -> Result<Option<String>> {
    match store.deletion().await {
        Ok(Deletion::Final) => Ok(None),
        Ok(Deletion::Versions) => Ok(Some(
            "the bucket keeps versions (versioning); Backscroll deletes every version of what it deletes, but what was deleted otherwise stays: give the bucket a life-cycle rule that expires noncurrent versions and their markers, or switch versioning off".into(),
        )),
        Ok(Deletion::Locked) => Err(StoreError::new(
            ErrorKind::Unsupported,
            Operation::Versioning,
            "the bucket",
            "its object lock keeps every object for a time, so nothing can be erased",
        )),
        Err(error) => Err(error),
    }
}

async fn list_uploads(store: &dyn ObjectStore) -> Result<Option<String>> {
    match store.unfinished_uploads(None).await {
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => Ok(Some(
            "unfinished uploads cannot be listed; give the bucket a life-cycle rule that aborts multipart uploads after a day".into(),
        )),
        Err(error) => Err(error),
    }
}

fn remedy(error: &StoreError) -> &'static str {
    match error.kind() {
        ErrorKind::Denied => {
            "check the credentials, and that they may put, get, list and delete objects (for a folder: its owner and mode)"
        }
        ErrorKind::Misconfigured => {
            "check object_store.bucket, region, endpoint and path_style (for a folder: path), and this machine's clock"
        }
        ErrorKind::NotFound if error.operation() == Operation::Put => {
            "create the bucket, or check its name"
        }
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            "check object_store.endpoint, that this machine reaches it, and where it gets its credentials from"
        }
        ErrorKind::Throttled => {
            "the store takes too few requests; ask its operator, or lower object_store.max_requests"
        }
        ErrorKind::Full => "free some space, or raise the quota",
        ErrorKind::Unsupported
            if matches!(error.operation(), Operation::Delete | Operation::Versioning) =>
        {
            "use a bucket without versioning and without object lock; until then deleted messages are not erased, and get no receipt"
        }
        ErrorKind::Unsupported | ErrorKind::Refused if error.operation() == Operation::Put => {
            "the store may not know newer headers: try object_store.checksum = \"when_required\" and conditional_put = false"
        }
        ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::Refused => {
            "the store does not do what S3 does here; try object_store.checksum = \"when_required\", or another store"
        }
        ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::OutOfRange => {
            "the store does not show at once what was stored; Backscroll needs one that does"
        }
    }
}
