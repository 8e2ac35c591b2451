//! What a test runs on.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::object_store::{
    ObjectKey, ObjectStore, ObjectStoreSettings, StoreKind, compose,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A store with nothing in it, with all layers around it, and with faults to plan below them.
pub(crate) struct Bed {
    pub(crate) settings: ObjectStoreSettings,
    pub(crate) backend: Arc<dyn ObjectStore>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) faults: Faults,
    /// A prefix of a key that ends before a slash reads as an object of its own.
    pub(crate) folders_are_objects: bool,
    _kept: Box<dyn Any + Send + Sync>,
}

impl Bed {
    /// On `backend`, which needs that `kept` lives.
    pub(crate) fn around(
        backend: Arc<dyn ObjectStore>,
        settings: ObjectStoreSettings,
        kept: impl Any + Send + Sync,
    ) -> Self {
        assert_eq!(settings.check(), []);
        let (faulty, faults) = Faults::around(Arc::clone(&backend));
        Self {
            store: compose(faulty, &settings),
            settings,
            backend,
            faults,
            folders_are_objects: false,
            _kept: Box::new(kept),
        }
    }

    pub(crate) fn is_disk(&self) -> bool {
        self.settings.kind == StoreKind::Disk
    }
}

/// The defaults, with parts as small as S3 takes them.
pub(crate) fn quick() -> ObjectStoreSettings {
    ObjectStoreSettings {
        part_size: 5 << 20,
        ..ObjectStoreSettings::default()
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

/// The address in `http://ADDRESS`.
pub(crate) fn address_of(endpoint: &str) -> SocketAddr {
    endpoint.strip_prefix("http://").unwrap().parse().unwrap()
}

/// What a GET of `url` from the server at `address` is answered, head and body.
pub(crate) async fn http_get(address: SocketAddr, url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}
