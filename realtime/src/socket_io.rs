//! The Socket.IO door (protocol 5 over Engine.IO 4), as `PROTOCOL.md` describes it: namespace `/chat`, and the namespaces of
//! older front-ends.
//!
//! A client that may not connect is refused with 503 before anything is kept for it, and tries again by itself; one that
//! may not enter the namespace hears `connect_error` with `data: {code, retryAfterMs?}`. Each namespace a client enters is
//! a session of its own, served by one task: it does commands one after the other, and sends what waits in the session's
//! queue. Engine.IO holds a few packets more; when those stand still for [`server::WRITE_TIMEOUT`] the client is
//! cut off, so that nothing durable is ever dropped silently (INV-PUSH).
//!
//! To be closed, a client hears `error {code, message}` first. For a reason that it may come back from, the transport is
//! closed under it, and client libraries connect again by themselves; otherwise it is sent out of the namespace, and they do
//! not.
//!
//! | module | what it holds |
//! |---|---|
//! | [`packet`] | the text of packets |
//! | [`server`] | namespaces over Engine.IO |
//! | `upgrade` | the WebSocket handshake |
//! | `inbox` | commands that wait |
//! | `chat` | the namespaces' sessions |
//! | `dialect` | the words of older front-ends |

mod chat;
mod dialect;
mod inbox;
pub mod packet;
pub mod server;
mod upgrade;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use engineioxide::service::{EngineIoService, NotFoundService};
use engineioxide::socket::Sid;
use futures_util::future::{BoxFuture, Either};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use self::chat::Chat;
use self::server::{Application, Server, Settings, WRITE_TIMEOUT};
use self::upgrade::Bounded;
use crate::admission::{ConnectionPermit, Refused};
use crate::edge::AUTHENTICATE_WITHIN;
use crate::gateway::Gateway;
use crate::settings::RealtimeSettings;

/// Where Socket.IO is served.
pub const PATH: &str = "/socket.io";
/// How long a client may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The least that a body of long polling may hold: several packets travel in one.
const MIN_PAYLOAD: usize = 100_000;
/// When one that was refused a place may try again, in seconds.
const RETRY_AFTER: u32 = 1;

impl Settings {
    /// What Engine.IO is told in a deployment.
    #[must_use]
    pub fn of(settings: &RealtimeSettings) -> Self {
        Self {
            ping_interval: settings.heartbeat.0,
            ping_timeout: PING_TIMEOUT,
            max_payload: settings.max_frame.max(MIN_PAYLOAD),
            connect_timeout: AUTHENTICATE_WITHIN,
            long_polling: settings.long_polling,
        }
    }
}

/// The layer that serves Socket.IO at [`PATH`] and leaves every other request to what it is put around.
pub type SocketIoDoor = Door<Chat>;

impl SocketIoDoor {
    /// A node's door. One is enough: all its clones and layers share their connections.
    #[must_use]
    pub fn new(gateway: &Arc<Gateway>) -> Self {
        let settings = Settings::of(gateway.settings());
        let chat = Arc::new(Chat::new(Arc::clone(gateway)));
        let mut door = Self::serving(chat, &settings, gateway.tasks(), gateway.closing().clone());
        let gateway = Arc::clone(gateway);
        door.admission = Some(Arc::new(move |address| gateway.admit(address)));
        door
    }
}

type Admission = Arc<dyn Fn(Option<IpAddr>) -> Result<ConnectionPermit, Refused> + Send + Sync>;

/// Engine.IO with an [`Application`] behind it, as a layer.
pub struct Door<A: Application> {
    server: Arc<Server<A>>,
    engine: EngineIoService<Server<A>, NotFoundService>,
    tasks: TaskTracker,
    admission: Option<Admission>,
}

impl<A: Application> Clone for Door<A> {
    fn clone(&self) -> Self {
        Self {
            server: Arc::clone(&self.server),
            engine: self.engine.clone(),
            tasks: self.tasks.clone(),
            admission: self.admission.clone(),
        }
    }
}

impl<A: Application> Door<A> {
    /// A door to `application`, which admits everybody.
    #[must_use]
    pub fn serving(
        application: Arc<A>,
        settings: &Settings,
        tasks: &TaskTracker,
        closing: tokio_util::sync::CancellationToken,
    ) -> Self {
        let server = Server::start(application, settings, tasks, closing);
        let config = settings.engine();
        let engine =
            EngineIoService::with_config_inner(NotFoundService, Arc::clone(&server), config);
        Self {
            server,
            engine,
            tasks: tasks.clone(),
            admission: None,
        }
    }

    /// Answers a request to [`PATH`].
    async fn answer(mut self, mut request: Request<Body>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        let sid = parameter(query, "sid").map(str::parse::<Sid>);
        let is_websocket = parameter(query, "transport") == Some("websocket")
            && parameter(query, "EIO") == Some("4")
            && !matches!(sid, Some(Err(_)));
        let switching = is_websocket.then(|| upgrade::handshake(&request));
        let switches =
            |response: &Response<Body>| response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let switching = match switching {
            Some(response) if !switches(&response) => return response,
            switching => switching,
        };
        if sid.is_none() {
            let place = match &self.admission {
                None => None,
                Some(admission) => match admission(address(&request)) {
                    Ok(place) => Some(place),
                    Err(refused) => return refusal(refused),
                },
            };
            request = kept(request, place);
        } else if switching.is_some() {
            request = kept(request, None);
        }
        match switching {
            Some(response) => {
                self.upgrade(request, sid.and_then(Result::ok));
                response
            }
            None => match self.engine.call(request).await {
                Ok(response) => response.map(Body::new),
                Err(never) => match never {},
            },
        }
    }

    /// Gives the connection to Engine.IO once it has been switched to WebSocket.
    fn upgrade(self, mut request: Request<Body>, sid: Option<Sid>) {
        let switched = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let Self {
            server,
            mut engine,
            tasks,
            ..
        } = self;
        let lingering = tasks.clone();
        tasks.spawn(async move {
            let switched = tokio::time::timeout(WRITE_TIMEOUT, switched).await;
            let Ok(Ok(connection)) = switched else {
                return;
            };
            let at_end =
                sid.map(|sid| -> upgrade::AtEnd { Box::new(move || server.upgrade_ended(sid)) });
            let bounded = Bounded::new(TokioIo::new(connection), WRITE_TIMEOUT, &lingering, at_end);
            let request = Request::from_parts(parts, ());
            if let Err(error) = Service::call(&mut engine, (bounded, request)).await {
                tracing::debug!(%error, "a connection is not one for Engine.IO");
            }
        });
    }
}

/// A connection's first request as Engine.IO keeps it for as long as the connection lasts: without headers, which would
/// keep the whole buffer that they were read into.
fn kept(request: Request<Body>, place: Option<ConnectionPermit>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map(ToString::to_string);
    let target = target.and_then(|target| target.parse::<Uri>().ok());
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = target.unwrap_or_default();
    let extensions = request.extensions_mut();
    if let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() {
        extensions.insert(upgrade);
    }
    if let Some(place) = place {
        extensions.insert(Admitted::new(place));
    }
    request
}

/// A place that travels with a connection's first request.
#[derive(Clone)]
struct Admitted(Arc<Mutex<Option<ConnectionPermit>>>);

impl Admitted {
    fn new(place: ConnectionPermit) -> Self {
        Self(Arc::new(Mutex::new(Some(place))))
    }

    fn take(&self) -> Option<ConnectionPermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn address(request: &Request<Body>) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(address)| address.ip())
}

fn refusal(refused: Refused) -> Response<Body> {
    metrics::counter!("backscroll_realtime_refused_total", "reason" => match refused {
        Refused::Draining => "draining",
        Refused::Full => "full",
        Refused::Address => "address",
    })
    .increment(1);
    let status = match refused {
        Refused::Draining | Refused::Full => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Address => StatusCode::TOO_MANY_REQUESTS,
    };
    let headers = [(header::RETRY_AFTER, RETRY_AFTER.to_string())];
    (status, headers).into_response()
}

impl<A: Application, S> Layer<S> for Door<A> {
    type Service = DoorService<A, S>;

    fn layer(&self, inner: S) -> Self::Service {
        DoorService {
            door: self.clone(),
            inner,
        }
    }
}

/// What [`Door`] puts around a service.
pub struct DoorService<A: Application, S> {
    door: Door<A>,
    inner: S,
}

impl<A: Application, S: Clone> Clone for DoorService<A, S> {
    fn clone(&self) -> Self {
        Self {
            door: self.door.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<A, S> Service<Request<Body>> for DoorService<A, S>
where
    A: Application,
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<BoxFuture<'static, Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rest = request.uri().path().strip_prefix(PATH);
        if rest.is_some_and(|rest| rest.is_empty() || rest == "/") {
            let door = self.door.clone();
            Either::Left(Box::pin(async move { Ok(door.answer(request).await) }))
        } else {
            Either::Right(self.inner.call(request))
        }
    }
}

/// A door as a service of its own, for a route at [`PATH`].
impl<A: Application> Service<Request<Body>> for Door<A> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(door.answer(request).await) })
    }
}
