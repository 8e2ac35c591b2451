//! An S3 server in this process, on a thread of its own, and the object store on it as the router would open it.

use std::sync::Arc;

use anyhow::Result;
use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::{
    ObjectStore, ObjectStoreSettings, Secret, StoreKind, compose,
};
use backscroll_testkit::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};
use tempfile::TempDir;

use crate::harness::aside::Aside;

/// A bucket in a temporary folder, and its server.
pub struct Bucket {
    server: S3Server,
    _folder: TempDir,
    _thread: Aside,
}

impl Bucket {
    /// Starts the server.
    ///
    /// # Errors
    /// When its thread or folder cannot be made.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let thread = Aside::start(1)?;
        let path = folder.path().to_owned();
        let server = thread
            .run(async move || Ok(S3Server::start(&path).await))
            .await?;
        Ok(Self {
            server,
            _folder: folder,
            _thread: thread,
        })
    }

    /// The bucket as an object store with all layers and default settings, and the count of requests that reach it.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub async fn open(&self) -> Result<(Arc<dyn ObjectStore>, Faults)> {
        let settings = ObjectStoreSettings {
            kind: StoreKind::S3,
            bucket: BUCKET.into(),
            endpoint: Some(self.server.url()),
            path_style: true,
            access_key_id: Some(ACCESS_KEY_ID.into()),
            secret_access_key: Some(Secret(SECRET_ACCESS_KEY.into())),
            ..ObjectStoreSettings::default()
        };
        let backend = Arc::new(S3Store::open(&settings).await?);
        let (counted, faults) = Faults::around(backend);
        Ok((compose(counted, &settings), faults))
    }
}
