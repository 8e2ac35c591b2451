//! The beds that need nothing but this process.

use std::ops::Deref;
use std::sync::Arc;

use backscroll_archiver::object_store::disk::DiskStore;
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::{ObjectStoreSettings, StoreKind};
use backscroll_shard::settings::Span;

use crate::bed::{Bed, quick};
use crate::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};

/// A folder of its own.
pub(crate) async fn disk() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let settings = ObjectStoreSettings {
        path: folder.path().join("objects"),
        ..quick()
    };
    let backend = DiskStore::open(&settings.path, settings.part_size)
        .await
        .unwrap();
    Bed::around(Arc::new(backend), settings, folder)
}

/// A bucket of its own, on a server of its own in this process.
pub(crate) struct OnServer {
    bed: Bed,
    pub(crate) server: S3Server,
}

impl OnServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With settings that differ from the usual.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ObjectStoreSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start(folder.path()).await;
        let mut settings = s3_settings(&server.url());
        change(&mut settings);
        let backend = S3Store::open(&settings).await.unwrap();
        let mut bed = Bed::around(Arc::new(backend), settings, folder);
        // The server keeps files as well, and takes a folder of its own for an object.
        bed.folders_are_objects = true;
        Self { bed, server }
    }
}

impl Deref for OnServer {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

pub(crate) fn s3_settings(endpoint: &str) -> ObjectStoreSettings {
    ObjectStoreSettings {
        kind: StoreKind::S3,
        bucket: BUCKET.into(),
        endpoint: Some(endpoint.into()),
        path_style: true,
        access_key_id: Some(ACCESS_KEY_ID.into()),
        secret_access_key: Some(serde_json::from_value(SECRET_ACCESS_KEY.into()).unwrap()),
        request_timeout: Span::secs(5),
        ..quick()
    }
}
