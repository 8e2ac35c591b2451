//! An S3 server in this process: the `s3s-fs` crate, and where it differs from S3 in what matters here, S3's behaviour.

mod bucket;
mod cors;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use bucket::Versioning;
use bucket::{Bucket, Served};
pub use cors::CorsRule;

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
    fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

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
type CorsRules = Arc<Mutex<Vec<CorsRule>>>;

/// The server; it ends when this is dropped.
pub struct S3Server {
    address: SocketAddr,
    answers: Answers,
    cors: CorsRules,
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
        let (answers, cors) = (Answers::default(), CorsRules::default());
        let mut tasks = JoinSet::new();
        let planned = (Arc::clone(&answers), Arc::clone(&cors));
        tasks.spawn(accept(listener, service, planned));
        Self {
            address,
            answers,
            cors,
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

    /// From now on, browsers may use the bucket as these rules say; at first they may not.
    pub fn set_cors(&self, rules: Vec<CorsRule>) {
        *self.cors.lock().unwrap() = rules;
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

async fn accept(listener: TcpListener, service: S3Service, planned: (Answers, CorsRules)) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap(); // or every answer waits 40 ms for the client's acknowledgement
        let (service, planned) = (service.clone(), planned.clone());
        connections.spawn(async move {
            let handler =
                service_fn(move |request| answer(request, service.clone(), planned.clone()));
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
    (answers, rules): (Answers, CorsRules),
) -> Result<Response<Body>, Infallible> {
    let planned = answers.lock().unwrap().pop_front();
    let given = cors::headers(&request, &rules.lock().unwrap());
    let planned = match (planned, &given) {
        (Some(planned), _) => planned,
        (None, Some(given)) if cors::is_preflight(&request) => match given {
            Some(_) => Answer::empty(200),
            None => Answer::error(403, "AccessForbidden"),
        },
        (None, _) => {
            let response = hyper::service::Service::call(&service, request)
                .await
                .unwrap();
            let mut response = response.map(|body| BodyExt::boxed(body.map_err(Into::into)));
            response
                .headers_mut()
                .extend(given.flatten().unwrap_or_default());
            return Ok(response);
        }
    };
    let _ = request.into_body().collect().await;
    let mut response = Response::builder().status(planned.status);
    for (name, value) in planned.headers {
        response = response.header(name, value);
    }
    let body = Full::new(planned.body).map_err(|never| match never {});
    let mut response = response.body(body.boxed()).unwrap();
    response
        .headers_mut()
        .extend(given.flatten().unwrap_or_default());
    Ok(response)
}
