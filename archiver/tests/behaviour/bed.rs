//! What a test runs on.

use std::sync::Arc;

use backscroll_archiver::object_store::disk::DiskStore;
use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::{
    ObjectKey, ObjectStore, ObjectStoreSettings, StoreKind, compose,
};
use backscroll_shard::settings::Span;
use bytes::Bytes;
use tempfile::TempDir;

use crate::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};

/// A store with nothing in it, with all layers around it, and with faults to plan below them.
pub(crate) struct Bed {
    pub(crate) settings: ObjectStoreSettings,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) faults: Faults,
    /// The S3 server, unless it is a folder.
    pub(crate) server: Option<S3Server>,
    _folder: TempDir,
}

impl Bed {
    pub(crate) async fn disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = ObjectStoreSettings {
            path: folder.path().join("objects"),
            ..quick()
        };
        let backend = Arc::new(
            DiskStore::open(&settings.path, settings.part_size)
                .await
                .unwrap(),
        );
        Self::around(backend, settings, None, folder)
    }

    pub(crate) async fn s3() -> Self {
        Self::s3_with(|_| {}).await
    }

    /// A bucket, with settings that differ from the usual.
    pub(crate) async fn s3_with(change: impl FnOnce(&mut ObjectStoreSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start(folder.path()).await;
        let mut settings = s3_settings(&server.url());
        change(&mut settings);
        let backend = Arc::new(S3Store::open(&settings).await.unwrap());
        Self::around(backend, settings, Some(server), folder)
    }

    fn around(
        backend: Arc<dyn ObjectStore>,
        settings: ObjectStoreSettings,
        server: Option<S3Server>,
        folder: TempDir,
    ) -> Self {
        assert_eq!(settings.check(), Vec::<String>::new());
        let (faulty, faults) = Faults::around(backend);
        Self {
            store: compose(faulty, &settings),
            settings,
            faults,
            server,
            _folder: folder,
        }
    }

    pub(crate) fn is_disk(&self) -> bool {
        self.settings.kind == StoreKind::Disk
    }
}

fn quick() -> ObjectStoreSettings {
    ObjectStoreSettings {
        part_size: 5 << 20,
        ..ObjectStoreSettings::default()
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

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Content that no two places of are alike.
pub(crate) fn content(size: usize) -> Bytes {
    (0u64..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(size)
        .collect::<Vec<u8>>()
        .into()
}
