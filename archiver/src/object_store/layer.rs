//! What is done around every request of a store, in one place for all its calls.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::disk::door::Door;
use super::error::{Operation, Result};
use super::key::{KeyPrefix, ObjectKey};
use super::{
    Deletion, ListPage, ObjectMeta, ObjectStore, PageMark, Part, SignedAnswer, SignedContent,
    SignedRequest, UnfinishedUpload, Upload,
};

/// A request that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is asked.
    pub operation: Operation,
    /// Of which key or prefix.
    pub subject: &'a str,
    /// How many bytes of content it carries, in either direction.
    pub bytes: u64,
}

/// Makes the request; every call makes it once more.
pub type Attempt<'a, T> = &'a (dyn Fn() -> BoxFuture<'a, Result<T>> + Send + Sync);

/// Something done around every request.
#[async_trait]
pub trait Layer: fmt::Debug + Send + Sync {
    /// Makes `request` by means of `attempt`: never, once or several times.
    async fn call<T: Send>(&self, request: Request<'_>, attempt: Attempt<'_, T>) -> Result<T>;

    /// Reads a range of an object of `inner`; unless a layer has something of its own to do here, as any other request.
    async fn get_range(
        &self,
        inner: &Arc<dyn ObjectStore>,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let bytes = range.end.saturating_sub(range.start);
        let request = Request {
            operation: Operation::GetRange,
            subject: key.as_str(),
            bytes,
        };
        self.call(request, &|| inner.get_range(key, range.clone()))
            .await
    }
}

/// A store with a layer around it.
#[derive(Debug)]
pub struct Layered<L> {
    inner: Arc<dyn ObjectStore>,
    layer: L,
}

impl<L: Layer + 'static> Layered<L> {
    /// Puts `layer` around `inner`.
    #[must_use]
    pub fn around(inner: Arc<dyn ObjectStore>, layer: L) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, layer })
    }
}

#[async_trait]
impl<L: Layer> ObjectStore for Layered<L> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn part_size(&self) -> usize {
        self.inner.part_size()
    }

    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<()> {
        let request = Request {
            operation: Operation::Put,
            subject: key.as_str(),
            bytes: content.len() as u64,
        };
        self.layer
            .call(request, &|| self.inner.put(key, content.clone()))
            .await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.layer.get_range(&self.inner, key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let request = Request {
            operation: Operation::Head,
            subject: key.as_str(),
            bytes: 0,
        };
        self.layer.call(request, &|| self.inner.head(key)).await
    }

    async fn list_page(&self, prefix: &KeyPrefix, from: Option<&PageMark>) -> Result<ListPage> {
        let request = Request {
            operation: Operation::List,
            subject: prefix.as_str(),
            bytes: 0,
        };
        self.layer
            .call(request, &|| self.inner.list_page(prefix, from))
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let request = Request {
            operation: Operation::Delete,
            subject: key.as_str(),
            bytes: 0,
        };
        self.layer.call(request, &|| self.inner.delete(key)).await
    }

    async fn deletion(&self) -> Result<Deletion> {
        let request = Request {
            operation: Operation::Versioning,
            subject: "",
            bytes: 0,
        };
        self.layer.call(request, &|| self.inner.deletion()).await
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Upload> {
        let request = Request {
            operation: Operation::StartUpload,
            subject: key.as_str(),
            bytes: 0,
        };
        self.layer
            .call(request, &|| self.inner.start_upload(key))
            .await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, content: Bytes) -> Result<Part> {
        let bytes = content.len() as u64;
        let request = Request {
            operation: Operation::UploadPart,
            subject: upload.key.as_str(),
            bytes,
        };
        self.layer
            .call(request, &|| {
                self.inner.upload_part(upload, number, content.clone())
            })
            .await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<()> {
        let request = Request {
            operation: Operation::CompleteUpload,
            subject: upload.key.as_str(),
            bytes: 0,
        };
        self.layer
            .call(request, &|| self.inner.complete_upload(upload, parts))
            .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let request = Request {
            operation: Operation::AbortUpload,
            subject: upload.key.as_str(),
            bytes: 0,
        };
        self.layer
            .call(request, &|| self.inner.abort_upload(upload))
            .await
    }

    async fn unfinished_uploads(&self, after: Option<&Upload>) -> Result<Vec<UnfinishedUpload>> {
        let request = Request {
            operation: Operation::ListUploads,
            subject: "",
            bytes: 0,
        };
        self.layer
            .call(request, &|| self.inner.unfinished_uploads(after))
            .await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let request = Request {
            operation: Operation::ListParts,
            subject: upload.key.as_str(),
            bytes: 0,
        };
        self.layer
            .call(request, &|| self.inner.list_parts(upload))
            .await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey, bytes: u64) -> Result<()> {
        let request = Request {
            operation: Operation::Copy,
            subject: to.as_str(),
            bytes,
        };
        self.layer
            .call(request, &|| self.inner.copy(from, to, bytes))
            .await
    }

    async fn start_signed_upload(&self, key: &ObjectKey, content_type: &str) -> Result<Upload> {
        let request = Request {
            operation: Operation::StartUpload,
            subject: key.as_str(),
            bytes: 0,
        };
        self.layer
            .call(request, &|| {
                self.inner.start_signed_upload(key, content_type)
            })
            .await
    }

    async fn sign_put(
        &self,
        key: &ObjectKey,
        content: &SignedContent<'_>,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        self.inner.sign_put(key, content, valid_for).await
    }

    async fn sign_part(
        &self,
        upload: &Upload,
        number: u32,
        bytes: u64,
        valid_for: Duration,
    ) -> Result<SignedRequest> {
        self.inner.sign_part(upload, number, bytes, valid_for).await
    }

    async fn sign_get(
        &self,
        key: &ObjectKey,
        answer: &SignedAnswer<'_>,
        valid_for: Duration,
    ) -> Result<String> {
        self.inner.sign_get(key, answer, valid_for).await
    }

    fn door(&self) -> Option<Arc<Door>> {
        self.inner.door()
    }
}
