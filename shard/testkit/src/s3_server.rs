//! An S3 server in this process: the `s3s-fs` crate, and where it differs from S3 in what matters here, S3's behaviour.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The bucket.
pub const BUCKET: &str = "archive";
/// The key that may do everything in it.
pub const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
/// Its secret.
pub const SECRET_ACCESS_KEY: &str = "an-example-secret";

/// How many uploads a page of a listing has: few, so that there are pages.
const UPLOADS_PAGE: usize = 2;

/// An answer that is given in place of the server's own.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// An error as S3 tells it.
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>"
        );
        Self {
            status,
            headers: vec![("content-type", "application/xml".into())],
            body: body.into(),
        }
    }
}

type Answers = Arc<Mutex<VecDeque<Answer>>>;

/// The server; it ends when this is dropped.
pub struct S3Server {
    address: SocketAddr,
    answers: Answers,
    bucket: Arc<Bucket>,
    _tasks: JoinSet<()>,
}

impl S3Server {
    /// Serves a new bucket, kept in `folder`.
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir(folder.join(BUCKET)).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::serve(folder, listener, S3Config::default())
    }

    /// Serves the bucket kept in `folder` at `address`: a new one, or what an earlier server left when it was killed.
    /// Requests are taken whatever the client's clock says. S3 refuses those that are more than 15 minutes off; not every
    /// store does.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn resume(folder: &Path, address: SocketAddr) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let listener = TcpListener::bind(address).await?;
        let mut config = S3Config::default();
        config.presigned_url_max_skew_time_secs = u32::MAX;
        Ok(Self::serve(folder, listener, config))
    }

    fn serve(folder: &Path, listener: TcpListener, config: S3Config) -> Self {
        let bucket = Arc::new(Bucket {
            files: FileSystem::new(folder).unwrap(),
            uploads: Mutex::default(),
            deaf: Mutex::new(false),
            versioning: Mutex::new(Versioning::Off),
            deleted: Mutex::default(),
        });
        let mut builder = S3ServiceBuilder::new(Served(Arc::clone(&bucket)));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let service = builder.build();

        let address = listener.local_addr().unwrap();
        let answers = Answers::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, service, Arc::clone(&answers)));
        Self {
            address,
            answers,
            bucket,
            _tasks: tasks,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as clients take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next requests get these answers.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// From now on, the bucket keeps what is deleted, or says that it does.
    pub fn set_versioning(&self, versioning: Versioning) {
        *self.bucket.versioning.lock().unwrap() = versioning;
    }

    /// How many versions of deleted objects it has, without their markers.
    pub fn kept_versions(&self) -> usize {
        let deleted = self.bucket.deleted.lock().unwrap();
        deleted.iter().filter(|version| !version.is_marker).count()
    }

    /// From now on, conditions of requests are passed over, as older stores do.
    pub fn ignore_conditions(&self) {
        *self.bucket.deaf.lock().unwrap() = true;
    }
}

async fn accept(listener: TcpListener, service: S3Service, answers: Answers) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap(); // or every answer waits 40 ms for the client's acknowledgement
        let (service, answers) = (service.clone(), Arc::clone(&answers));
        connections.spawn(async move {
            let handler =
                service_fn(move |request| answer(request, service.clone(), Arc::clone(&answers)));
            // A client that goes away is no error here.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), handler)
                .await;
        });
    }
}

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    answers: Answers,
) -> Result<Response<Body>, Infallible> {
    let planned = answers.lock().unwrap().pop_front();
    let Some(planned) = planned else {
        let response = hyper::service::Service::call(&service, request)
            .await
            .unwrap();
        return Ok(response.map(|body| BodyExt::boxed(body.map_err(Into::into))));
    };
    let _ = request.into_body().collect().await;
    let mut response = Response::builder().status(planned.status);
    for (name, value) in planned.headers {
        response = response.header(name, value);
    }
    Ok(response
        .body(
            Full::new(planned.body)
                .map_err(|never| match never {})
                .boxed(),
        )
        .unwrap())
}

/// What becomes of deleted objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// They are gone.
    Off,
    /// They are kept as versions.
    On,
    /// Likewise, and the bucket does not list them.
    Hidden,
    /// Likewise, and object lock lets nobody delete them.
    Locked,
}

/// A version of an object that is not the newest, or a marker that the object is deleted.
struct Version {
    key: String,
    id: String,
    is_marker: bool,
}

/// The id of an object's newest version.
const NEWEST: &str = "newest";

/// The bucket, and what `s3s-fs` does not keep of it.
struct Bucket {
    files: FileSystem,
    versioning: Mutex<Versioning>,
    deleted: Mutex<Vec<Version>>,
    /// By key and upload id.
    uploads: Mutex<BTreeMap<(String, String), SystemTime>>,
    deaf: Mutex<bool>,
}

impl Bucket {
    /// `s3s-fs` makes a bucket by the way.
    fn check_bucket(&self, name: &str) -> S3Result<()> {
        if name == BUCKET {
            Ok(())
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    /// `s3s-fs` says of an upload that it does not know that access is denied.
    fn check_upload(&self, key: &str, id: &str) -> S3Result<()> {
        let known = self
            .uploads
            .lock()
            .unwrap()
            .contains_key(&(key.to_owned(), id.to_owned()));
        if known {
            Ok(())
        } else {
            Err(s3_error!(NoSuchUpload))
        }
    }

    fn forget_upload(&self, key: &str, id: &str) {
        self.uploads
            .lock()
            .unwrap()
            .remove(&(key.to_owned(), id.to_owned()));
    }
}

struct Served(Arc<Bucket>);

#[async_trait::async_trait]
impl S3 for Served {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.0.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.0.files.head_object(request).await
    }

    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.check_bucket(&request.input.bucket)?;
        if *self.0.deaf.lock().unwrap() {
            request.input.if_none_match = None;
        }
        self.0.files.put_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (key, versioning) = (
            request.input.key.clone(),
            *self.0.versioning.lock().unwrap(),
        );
        match (versioning, request.input.version_id.clone()) {
            (Versioning::Off, _) => self.0.files.delete_object(request).await,
            (Versioning::Locked, Some(_)) => Err(s3_error!(AccessDenied)),
            (_, Some(id)) if id != NEWEST => {
                let mut deleted = self.0.deleted.lock().unwrap();
                deleted.retain(|version| version.key != key || version.id != id);
                Ok(S3Response::new(DeleteObjectOutput::default()))
            }
            (_, Some(_)) => {
                let mut request = request;
                request.input.version_id = None;
                self.0.files.delete_object(request).await
            }
            (_, None) => {
                let response = self.0.files.delete_object(request).await?;
                let mut deleted = self.0.deleted.lock().unwrap();
                for is_marker in [false, true] {
                    let (key, id) = (key.clone(), format!("v{}", deleted.len()));
                    deleted.push(Version { key, id, is_marker });
                }
                let mut output = response.output;
                output.delete_marker = (versioning != Versioning::Hidden).then_some(true);
                Ok(S3Response::new(output))
            }
        }
    }

    async fn get_bucket_versioning(
        &self,
        _: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let is_on = *self.0.versioning.lock().unwrap() != Versioning::Off;
        let enabled = BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
        Ok(S3Response::new(GetBucketVersioningOutput {
            status: is_on.then_some(enabled),
            ..GetBucketVersioningOutput::default()
        }))
    }

    async fn get_object_lock_configuration(
        &self,
        _: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        if *self.0.versioning.lock().unwrap() != Versioning::Locked {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let rule = ObjectLockRule {
            default_retention: Some(DefaultRetention {
                days: Some(30),
                ..DefaultRetention::default()
            }),
        };
        let configuration = ObjectLockConfiguration {
            rule: Some(rule),
            ..ObjectLockConfiguration::default()
        };
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(configuration),
        }))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        if *self.0.versioning.lock().unwrap() == Versioning::Hidden {
            return Ok(S3Response::new(ListObjectVersionsOutput::default()));
        }
        let prefix = request.input.prefix.clone().unwrap_or_default();
        let list = ListObjectsV2Input {
            bucket: request.input.bucket.clone(),
            prefix: Some(prefix.clone()),
            ..ListObjectsV2Input::default()
        };
        let newest = self.0.files.list_objects_v2(request.map_input(|_| list));
        let newest = newest.await?.output.contents.unwrap_or_default();
        let mut versions: Vec<ObjectVersion> = newest
            .into_iter()
            .map(|object| ObjectVersion {
                key: object.key,
                version_id: Some(NEWEST.into()),
                ..ObjectVersion::default()
            })
            .collect();
        let mut markers = Vec::new();
        let deleted = self.0.deleted.lock().unwrap();
        for version in deleted.iter().filter(|it| it.key.starts_with(&prefix)) {
            let (key, version_id) = (Some(version.key.clone()), Some(version.id.clone()));
            if version.is_marker {
                markers.push(DeleteMarkerEntry {
                    key,
                    version_id,
                    ..DeleteMarkerEntry::default()
                });
            } else {
                versions.push(ObjectVersion {
                    key,
                    version_id,
                    ..ObjectVersion::default()
                });
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            versions: Some(versions),
            delete_markers: Some(markers),
            ..ListObjectVersionsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.0.files.list_objects_v2(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let key = request.input.key.clone();
        let response = self.0.files.create_multipart_upload(request).await?;
        let id = response.output.upload_id.clone().unwrap();
        self.0
            .uploads
            .lock()
            .unwrap()
            .insert((key, id), SystemTime::now());
        Ok(response)
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.0
            .check_upload(&request.input.key, &request.input.upload_id)?;
        self.0.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (key, id) = (request.input.key.clone(), request.input.upload_id.clone());
        self.0.check_upload(&key, &id)?;
        let response = self.0.files.complete_multipart_upload(request).await?;
        self.0.forget_upload(&key, &id);
        Ok(response)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let (key, id) = (request.input.key.clone(), request.input.upload_id.clone());
        self.0.check_upload(&key, &id)?;
        let response = self.0.files.abort_multipart_upload(request).await?;
        self.0.forget_upload(&key, &id);
        Ok(response)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let after = request.input.key_marker.zip(request.input.upload_id_marker);
        let uploads = self.0.uploads.lock().unwrap();
        let mut following = uploads
            .iter()
            .filter(|(upload, _)| after.as_ref().is_none_or(|after| *upload > after));
        let page: Vec<_> = following.by_ref().take(UPLOADS_PAGE).collect();
        let upload = |(upload, started): &(&(String, String), &SystemTime)| MultipartUpload {
            key: Some(upload.0.clone()),
            upload_id: Some(upload.1.clone()),
            initiated: Some(Timestamp::from(**started)),
            ..MultipartUpload::default()
        };
        let output = ListMultipartUploadsOutput {
            is_truncated: Some(following.next().is_some()),
            next_key_marker: page.last().map(|(upload, _)| upload.0.clone()),
            next_upload_id_marker: page.last().map(|(upload, _)| upload.1.clone()),
            uploads: Some(page.iter().map(upload).collect()),
            ..ListMultipartUploadsOutput::default()
        };
        Ok(S3Response::new(output))
    }
}
