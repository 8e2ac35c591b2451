//! A part of a bucket that looks like a whole one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backscroll_archiver::object_store::disk::door::Door;
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::{
    Deletion, KeyPrefix, ListPage, ObjectKey, ObjectMeta, ObjectStore, PageMark, Part, Result,
    SignedAnswer, SignedContent, SignedRequest, UnfinishedUpload, Upload,
};
use bytes::Bytes;

/// The objects and uploads of `inner` whose keys are below a prefix, under their keys without it.
#[derive(Debug)]
pub(crate) struct Prefixed {
    inner: S3Store,
    prefix: String,
}

impl Prefixed {
    pub(crate) fn around(inner: S3Store, prefix: &str) -> Self {
        let prefix = format!("{prefix}/");
        Self { inner, prefix }
    }

    fn inner_key(&self, key: &ObjectKey) -> ObjectKey {
        ObjectKey::new(format!("{}{key}", self.prefix)).unwrap()
    }

    fn inner_upload(&self, upload: &Upload) -> Upload {
        Upload {
            key: self.inner_key(&upload.key),
            id: upload.id.clone(),
        }
    }

    fn outer_key(&self, key: &ObjectKey) -> Option<ObjectKey> {
        let key = key.as_str().strip_prefix(&self.prefix)?;
        Some(ObjectKey::new(key).unwrap())
    }
}

#[async_trait]
impl ObjectStore for Prefixed {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn part_size(&self) -> usize {
        self.inner.part_size()
    }

    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<()> {
        self.inner.put(&self.inner_key(key), content).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(&self.inner_key(key), range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let meta = self.inner.head(&self.inner_key(key)).await?;
        let key = key.clone();
        Ok(ObjectMeta { key, ..meta })
    }

    async fn list_page(&self, prefix: &KeyPrefix, from: Option<&PageMark>) -> Result<ListPage> {
        let inner_prefix = KeyPrefix::new(format!("{}{}", self.prefix, prefix.as_str())).unwrap();
        let mut page = self.inner.list_page(&inner_prefix, from).await?;
        for object in &mut page.objects {
            object.key = self.outer_key(&object.key).unwrap();
        }
        Ok(page)
    }

    async fn deletion(&self) -> Result<Deletion> {
        self.inner.deletion().await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(&self.inner_key(key)).await
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Upload> {
        let upload = self.inner.start_upload(&self.inner_key(key)).await?;
        let key = key.clone();
        Ok(Upload { key, ..upload })
    }

    async fn upload_part(&self, upload: &Upload, number: u32, content: Bytes) -> Result<Part> {
        let upload = self.inner_upload(upload);
        self.inner.upload_part(&upload, number, content).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<()> {
        let upload = self.inner_upload(upload);
        self.inner.complete_upload(&upload, parts).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.inner.abort_upload(&self.inner_upload(upload)).await
    }

    async fn unfinished_uploads(&self, after: Option<&Upload>) -> Result<Vec<UnfinishedUpload>> {
        let mut after = after.map(|upload| self.inner_upload(upload));
        loop {
            let page = self.inner.unfinished_uploads(after.as_ref()).await?;
            let Some(last) = page.last() else {
                return Ok(Vec::new());
            };
            after = Some(last.upload.clone());
            let found = page.into_iter().filter_map(|mut unfinished| {
                unfinished.upload.key = self.outer_key(&unfinished.upload.key)?;
                Some(unfinished)
            });
            let found: Vec<UnfinishedUpload> = found.collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        self.inner.list_parts(&self.inner_upload(upload)).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey, bytes: u64) -> Result<()> {
        let (from, to) = (self.inner_key(from), self.inner_key(to));
        self.inner.copy(&from, &to, bytes).await
    }

    async fn start_signed_upload(&self, key: &ObjectKey, content_type: &str) -> Result<Upload> {
        let inner = self.inner_key(key);
        let upload = self.inner.start_signed_upload(&inner, content_type).await?;
        Ok(Upload {
            key: key.clone(),
            id: upload.id,
        })
    }

    async fn sign_put(
        &self,
        key: &ObjectKey,
        content: &SignedContent<'_>,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        let key = self.inner_key(key);
        self.inner.sign_put(&key, content, valid_for).await
    }

    async fn sign_part(
        &self,
        upload: &Upload,
        number: u32,
        bytes: u64,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        let upload = self.inner_upload(upload);
        self.inner
            .sign_part(&upload, number, bytes, valid_for)
            .await
    }

    async fn sign_get(
        &self,
        key: &ObjectKey,
        answer: &SignedAnswer<'_>,
        valid_for: Duration,
    ) -> Result<String> {
        let key = self.inner_key(key);
        self.inner.sign_get(&key, answer, valid_for).await
    }

    fn door(&self) -> Option<Arc<Door>> {
        self.inner.door()
    }
}
