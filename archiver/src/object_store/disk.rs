//! Objects as files in a folder: the embedded default, for one node.
//!
//! ```text
//! <path>/<key>                            an object; the key's slashes are folders
//! <path>/.unfinished/<key with +>.<id>    what is being written: an upload, or the content of a put
//! <path>/.unfinished/<key with +>.<id>.parts/<number>.<bytes>   a part of an upload that is there whole
//! <path>/.secret                          what addresses are signed with
//! ```
//!
//! - An object appears whole and durable or not at all: it is written under another name, synced, given its own name
//!   without replacing (INV-OBJECT), and then its folder is synced too. Folders that had to be made are synced into
//!   theirs.
//! - A crash leaves a file in `.unfinished`, which no reader sees; it is listed as an unfinished upload.
//! - Nothing outside the folder is reached: keys have no way to say it (see [`ObjectKey`]). The folder itself may be a
//!   symbolic link, or a mount point; the whole of it must be one file system.
//! - A key cannot be the folder of another: `a` and `a/b` exclude each other, unlike in S3.
//!
//! A folder that has become empty stays; keys are spread over a fixed number of them. Clients put and get objects by signed
//! requests, which [`door`] answers.

mod address;
pub mod door;
mod files;
mod refusal;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::{ErrorKind, Operation, Result, StoreError};
use super::key::{KeyPrefix, ObjectKey};
use super::settings::ObjectStoreSettings;
use super::signed::SignedHeader;
use super::{
    Deletion, ListPage, ObjectMeta, ObjectStore, PageMark, Part, SignedAnswer, SignedContent,
    SignedRequest, UnfinishedUpload, Upload,
};
use address::{Purpose, Signer};
use door::Door;
use files::Files;

/// A store in a folder.
#[derive(Debug)]
pub struct DiskStore {
    files: Arc<Files>,
    door: Arc<Door>,
    /// What comes before the paths of addresses.
    public_endpoint: String,
    part_size: usize,
}

impl DiskStore {
    /// Opens the store in the configured folder, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or is no folder.
    pub async fn open(settings: &ObjectStoreSettings) -> Result<Self> {
        let path = settings.path.clone();
        let (files, secret) = blocking(Operation::Open, &path.display().to_string(), move || {
            let files = Files::open(path)?;
            let secret = files.secret()?;
            Ok((Arc::new(files), secret))
        })
        .await?;
        let (part_size, max_requests) = (settings.part_size, settings.max_requests);
        let door = Door::new(
            Arc::clone(&files),
            Signer::new(&secret),
            part_size,
            max_requests,
        );
        let public_endpoint = settings.public_endpoint.clone().unwrap_or_default();
        Ok(Self {
            files,
            door: Arc::new(door),
            public_endpoint: public_endpoint.trim_end_matches('/').to_owned(),
            part_size,
        })
    }

    fn address(&self, purpose: &Purpose, valid_for: Duration) -> String {
        format!(
            "{}{}",
            self.public_endpoint,
            self.door.sign(purpose, valid_for)
        )
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        subject: &str,
        work: impl FnOnce(&Files) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = Arc::clone(&self.files);
        blocking(operation, subject, move || work(&files)).await
    }
}

/// Does `work` where it may block. It is finished even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    operation: Operation,
    subject: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let result = match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            return Err(StoreError::new(
                ErrorKind::Unavailable,
                operation,
                subject,
                error,
            ));
        }
    };
    result.map_err(|error| StoreError::new(kind_of(&error), operation, subject, error))
}

fn kind_of(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound | Io::IsADirectory => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::UnexpectedEof => ErrorKind::OutOfRange,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Full,
        Io::NotADirectory => ErrorKind::Misconfigured,
        Io::InvalidInput | Io::InvalidData | Io::Unsupported => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    }
}

#[async_trait]
impl ObjectStore for DiskStore {
    fn location(&self) -> String {
        format!("folder {}", self.files.root().display())
    }

    fn part_size(&self) -> usize {
        self.part_size
    }

    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<()> {
        let target = key.clone();
        self.run(Operation::Put, key.as_str(), move |files| {
            files.create(&target, &content)
        })
        .await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let target = key.clone();
        self.run(Operation::GetRange, key.as_str(), move |files| {
            files.read(&target, range)
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let target = key.clone();
        self.run(Operation::Head, key.as_str(), move |files| {
            files.meta(target)
        })
        .await
    }

    async fn list_page(&self, prefix: &KeyPrefix, from: Option<&PageMark>) -> Result<ListPage> {
        let after = from.map(|mark| mark.last_key.clone()).unwrap_or_default();
        let within = prefix.clone();
        self.run(Operation::List, prefix.as_str(), move |files| {
            files.list(&within, &after)
        })
        .await
    }

    async fn deletion(&self) -> Result<Deletion> {
        Ok(Deletion::Final)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let target = key.clone();
        self.run(Operation::Delete, key.as_str(), move |files| {
            files.delete(&target)
        })
        .await
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Upload> {
        let target = key.clone();
        self.run(Operation::StartUpload, key.as_str(), move |files| {
            files.start(target)
        })
        .await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, content: Bytes) -> Result<Part> {
        let (target, part_size) = (upload.clone(), self.part_size as u64);
        let size = content.len() as u64;
        let offset = u64::from(number.saturating_sub(1)) * part_size;
        self.run(Operation::UploadPart, upload.key.as_str(), move |files| {
            files.write_part(&target, (number, offset), &content)
        })
        .await?;
        Ok(Part {
            number,
            size,
            tag: String::new(),
            checksum: None,
        })
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<()> {
        let target = upload.clone();
        let size = parts.iter().map(|part| part.size).sum();
        self.run(
            Operation::CompleteUpload,
            upload.key.as_str(),
            move |files| files.complete(&target, size),
        )
        .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let target = upload.clone();
        self.run(Operation::AbortUpload, upload.key.as_str(), move |files| {
            files.abort(&target)
        })
        .await
    }

    async fn unfinished_uploads(&self, after: Option<&Upload>) -> Result<Vec<UnfinishedUpload>> {
        let after = after.cloned();
        self.run(Operation::ListUploads, "", move |files| {
            files.unfinished(after.as_ref())
        })
        .await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let target = upload.clone();
        let parts = self.run(Operation::ListParts, upload.key.as_str(), move |files| {
            files.parts(&target)
        });
        let part = |(number, size)| Part {
            number,
            size,
            tag: String::new(),
            checksum: None,
        };
        Ok(parts.await?.into_iter().map(part).collect())
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey, _: u64) -> Result<()> {
        let (source, target) = (from.clone(), to.clone());
        self.run(Operation::Copy, to.as_str(), move |files| {
            files.copy(&source, &target)
        })
        .await
    }

    async fn start_signed_upload(&self, key: &ObjectKey, _: &str) -> Result<Upload> {
        self.start_upload(key).await
    }

    async fn sign_put(
        &self,
        key: &ObjectKey,
        content: &SignedContent<'_>,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        let purpose = Purpose::Put {
            key: key.clone(),
            bytes: content.bytes,
            content_type: content.content_type.to_owned(),
        };
        Ok(SignedRequest {
            method: "PUT",
            url: self.address(&purpose, valid_for),
            headers: vec![
                SignedHeader::new("content-length", &content.bytes),
                SignedHeader::new("content-type", &content.content_type),
            ],
        })
    }

    async fn sign_part(
        &self,
        upload: &Upload,
        number: u32,
        bytes: u64,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        let purpose = Purpose::Part {
            upload: upload.clone(),
            number,
            bytes,
        };
        Ok(SignedRequest {
            method: "PUT",
            url: self.address(&purpose, valid_for),
            headers: vec![SignedHeader::new("content-length", &bytes)],
        })
    }

    async fn sign_get(
        &self,
        key: &ObjectKey,
        answer: &SignedAnswer<'_>,
        valid_for: Duration,
    ) -> Result<String> {
        let purpose = Purpose::Get {
            key: key.clone(),
            content_type: answer.content_type.to_owned(),
            disposition: answer.disposition.to_owned(),
        };
        Ok(self.address(&purpose, valid_for))
    }

    fn door(&self) -> Option<Arc<Door>> {
        Some(Arc::clone(&self.door))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::object_store::transfer::abort_unfinished;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    async fn store(folder: &tempfile::TempDir) -> DiskStore {
        let settings = ObjectStoreSettings {
            path: folder.path().join("deep/objects"),
            ..ObjectStoreSettings::default()
        };
        DiskStore::open(&settings).await.unwrap()
    }

    fn unfinished_files(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("deep/objects/.unfinished"))
            .unwrap()
            .count()
    }

    #[tokio::test]
    async fn an_object_is_a_plain_file_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store
            .put(&key("v1/ab/one"), Bytes::from_static(b"content"))
            .await
            .unwrap();
        store
            .put(&key("v1/ab/one"), Bytes::from_static(b"content"))
            .await
            .unwrap();
        let error = store
            .put(&key("v1/ab/one"), Bytes::from_static(b"another"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            std::fs::read(folder.path().join("deep/objects/v1/ab/one")).unwrap(),
            b"content"
        );
        assert_eq!(unfinished_files(&folder), 0);
    }

    #[tokio::test]
    async fn of_many_who_create_the_same_key_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(store(&folder).await);
        let target = key("contested");
        let puts = (0..32u8).map(|n| {
            let (store, target) = (&store, &target);
            async move { store.put(target, Bytes::from(vec![n; 100_000])).await }
        });
        let results = futures_util::future::join_all(puts).await;
        let winners: Vec<u8> = (0..32)
            .filter(|&n| results[usize::from(n)].is_ok())
            .collect();
        let [winner] = winners[..] else {
            panic!("{winners:?}")
        };
        assert_eq!(
            store.get_range(&target, 0..100_000).await.unwrap(),
            vec![winner; 100_000]
        );
        assert_eq!(unfinished_files(&folder), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_not_an_object_and_is_collected() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let upload = store.start_upload(&key("a/b")).await.unwrap();
        store
            .upload_part(&upload, 1, Bytes::from_static(b"half"))
            .await
            .unwrap();
        drop(store);

        let store = self::store(&folder).await;
        assert_eq!(
            store.head(&key("a/b")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            store.list_page(&KeyPrefix::default(), None).await.unwrap(),
            ListPage::default()
        );
        let now = backscroll_shard::model::Timestamp::now();
        assert_eq!(
            abort_unfinished(&store, |_: &ObjectKey| true, Duration::from_secs(3600), now)
                .await
                .unwrap(),
            0
        );
        assert_eq!(unfinished_files(&folder), 2, "the upload and its parts");
        let later = backscroll_shard::model::Timestamp(now.0 + 7_200_000);
        assert_eq!(
            abort_unfinished(
                &store,
                |_: &ObjectKey| true,
                Duration::from_secs(3600),
                later
            )
            .await
            .unwrap(),
            1
        );
        assert_eq!(unfinished_files(&folder), 0);
    }

    #[tokio::test]
    async fn foreign_files_are_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store
            .put(&key("a"), Bytes::from_static(b"x"))
            .await
            .unwrap();
        let root = folder.path().join("deep/objects");
        std::fs::write(root.join("README.TXT"), "not ours").unwrap();
        std::fs::write(root.join(".hidden"), "not ours").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("link")).unwrap();
        let page = store.list_page(&KeyPrefix::default(), None).await.unwrap();
        assert_eq!(
            page.objects
                .iter()
                .map(|object| object.key.as_str())
                .collect::<Vec<_>>(),
            ["a"]
        );
    }

    #[tokio::test]
    async fn a_file_in_place_of_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let settings = ObjectStoreSettings {
            path: file.clone(),
            ..ObjectStoreSettings::default()
        };
        let error = DiskStore::open(&settings).await.unwrap_err();
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
    }

    #[tokio::test]
    async fn objects_are_not_for_other_users_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store
            .put(&key("a"), Bytes::from_static(b"x"))
            .await
            .unwrap();
        let mode = std::fs::metadata(folder.path().join("deep/objects/a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
