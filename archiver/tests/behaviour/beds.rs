//! The beds that need nothing but this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use backscroll_archiver::object_store::disk::DiskStore;
use backscroll_archiver::object_store::disk::door::{Door, DoorBody};
use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::{ObjectStore, ObjectStoreSettings, StoreKind};
use backscroll_shard::settings::Span;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::bed::{Bed, quick};
use crate::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};

/// A folder of its own.
pub(crate) async fn disk() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let settings = ObjectStoreSettings {
        path: folder.path().join("objects"),
        ..quick()
    };
    let backend: Arc<dyn ObjectStore> = Arc::new(DiskStore::open(&settings).await.unwrap());
    let server = DoorServer::start(backend.door().unwrap()).await;
    let (url, kept) = (server.url(), (folder, server));
    let mut bed = Bed::around(backend, settings, kept);
    bed.public = url;
    bed
}

/// Answers the signed requests of a folder; ends when it is dropped.
struct DoorServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl DoorServer {
    async fn start(door: Arc<Door>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let door = Arc::clone(&door);
                let service = service_fn(move |request| answer(Arc::clone(&door), request));
                connections.spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn answer(
    door: Arc<Door>,
    request: Request<Incoming>,
) -> Result<Response<DoorBody>, std::convert::Infallible> {
    Ok(door.answer(request).await.unwrap_or_else(|refusal| {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = refusal.status();
        response
    }))
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
