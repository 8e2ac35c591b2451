//! The Socket.IO door (protocol 5 over Engine.IO 4), as `PROTOCOL.md` describes it: namespace `/chat`, and the namespaces of
//! older front-ends.
//!
//! A connection that is not admitted is answered with 503 before the server holds anything for it, and its client tries again.
//! A client that may not enter the namespace receives `connect_error` with `data: {code, retryAfterMs?}`. Each namespace that a
//! client enters is a session of its own, served by one task. Engine.IO holds a few packets more than the session's queue; when
//! those make no progress for [`WRITE_TIMEOUT`] the connection is closed, so that no durable event is ever dropped silently
//! (INV-PUSH).
//!
//! A client that is closed receives `error {code, message}` first. If it may come back at once or later, the transport
//! is closed, and client libraries connect again by themselves; if not, the client is sent out of the namespace, and they do not.
//!
//! | module | contents |
//! |---|---|
//! | [`packet`] | packets as text |
//! | [`application`] | the seam between namespaces and sessions |
//! | [`server`], [`idle`] | namespaces over Engine.IO; connections that are in none |
//! | [`settings`] | the configuration of Engine.IO |
//! | `first_request`, `upgrade` | a connection's first request, and its WebSocket handshake |
//! | `chat`, `inbox` | the sessions behind the namespaces, and their commands that wait |

pub mod application;
mod chat;
mod first_request;
pub mod idle;
mod inbox;
pub mod packet;
pub mod server;
pub mod settings;
mod upgrade;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use backscroll_shard::tasks::{OneShots, TaskGroup};
use engineioxide::service::{EngineIoService, NotFoundService};
use engineioxide::socket::Sid;
use futures_util::future::{BoxFuture, Either};
use hyper_util::rt::TokioIo;
use tower::{Layer, Service};

use self::application::Application;
use self::chat::Chat;
use self::first_request::kept;
use self::server::Server;
use self::settings::Settings;
use self::upgrade::Bounded;
use crate::admission::{ConnectionPermit, Refused, Token};
use crate::gateway::Gateway;
use crate::metrics;

pub use self::settings::PATH;
pub use crate::door::WRITE_TIMEOUT;

/// Most connections, those included that linger or are being upgraded: far beyond what is admitted.
const CONNECTIONS_MAX: usize = 1 << 20;
/// After how many seconds a client that was not admitted may try again.
const RETRY_AFTER: u32 = 1;

/// The layer that serves Socket.IO at [`PATH`] and leaves every other request to the service that it wraps.
pub type SocketIoDoor = SocketIo<Chat>;

impl SocketIoDoor {
    /// A node's door. One is enough: all its clones and layers share their connections.
    #[must_use]
    pub fn new(gateway: &Arc<Gateway>) -> Self {
        let settings = Settings::of(gateway.settings());
        let chat = Arc::new(Chat::new(Arc::clone(gateway)));
        let mut door = Self::serving(chat, &settings, gateway.tasks(), gateway.closing().clone());
        let gateway = Arc::clone(gateway);
        door.admission = Some(Arc::new(move |address| {
            gateway.admit(address, Token::Later)
        }));
        door
    }
}

type Admission = Arc<dyn Fn(Option<IpAddr>) -> Result<ConnectionPermit, Refused> + Send + Sync>;

/// Engine.IO with an [`Application`] behind it, as a layer.
pub struct SocketIo<A: Application> {
    server: Arc<Server<A>>,
    engine: EngineIoService<Server<A>, NotFoundService>,
    connections: OneShots,
    admission: Option<Admission>,
}

impl<A: Application> Clone for SocketIo<A> {
    fn clone(&self) -> Self {
        Self {
            server: Arc::clone(&self.server),
            engine: self.engine.clone(),
            connections: self.connections.clone(),
            admission: self.admission.clone(),
        }
    }
}

impl<A: Application> SocketIo<A> {
    /// A door to `application` that admits every connection.
    #[must_use]
    pub fn serving(
        application: Arc<A>,
        settings: &Settings,
        tasks: &TaskGroup,
        closing: tokio_util::sync::CancellationToken,
    ) -> Self {
        let server = Server::start(application, settings, tasks, closing);
        let config = settings.engine();
        let engine =
            EngineIoService::with_config_inner(NotFoundService, Arc::clone(&server), config);
        Self {
            server,
            engine,
            connections: tasks.one_shots("socket.io-connection", CONNECTIONS_MAX),
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
            let permit = match &self.admission {
                None => None,
                Some(admission) => match admission(address(&request)) {
                    Ok(permit) => Some(permit),
                    Err(refused) => return refusal(refused),
                },
            };
            request = kept(request, permit);
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

    /// Hands the connection to Engine.IO once it is switched to WebSocket.
    fn upgrade(self, mut request: Request<Body>, sid: Option<Sid>) {
        let switched = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let Self {
            server,
            mut engine,
            connections,
            ..
        } = self;
        let lingering = connections.clone();
        // Without room for it, the connection is dropped.
        let _ = connections.spawn(async move {
            let switched = tokio::time::timeout(WRITE_TIMEOUT, switched).await;
            let Ok(Ok(connection)) = switched else {
                return;
            };
            let at_end =
                sid.map(|sid| -> upgrade::AtEnd { Box::new(move || server.upgrade_ended(sid)) });
            let bounded = Bounded::new(TokioIo::new(connection), WRITE_TIMEOUT, &lingering, at_end);
            let request = Request::from_parts(parts, ());
            if let Err(error) = Service::call(&mut engine, (bounded, request)).await {
                tracing::debug!(%error, "Engine.IO does not take a connection");
            }
        });
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
    metrics::REFUSED
        .with([match refused {
            Refused::Draining => "draining",
            Refused::Full => "full",
            Refused::Address => "address",
        }])
        .increment(1);
    let status = match refused {
        Refused::Draining | Refused::Full => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Address => StatusCode::TOO_MANY_REQUESTS,
    };
    let headers = [(header::RETRY_AFTER, RETRY_AFTER.to_string())];
    (status, headers).into_response()
}

impl<A: Application, S> Layer<S> for SocketIo<A> {
    type Service = SocketIoService<A, S>;

    fn layer(&self, inner: S) -> Self::Service {
        SocketIoService {
            door: self.clone(),
            inner,
        }
    }
}

/// A service that [`SocketIo`] wraps.
pub struct SocketIoService<A: Application, S> {
    door: SocketIo<A>,
    inner: S,
}

impl<A: Application, S: Clone> Clone for SocketIoService<A, S> {
    fn clone(&self) -> Self {
        Self {
            door: self.door.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<A, S> Service<Request<Body>> for SocketIoService<A, S>
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
impl<A: Application> Service<Request<Body>> for SocketIo<A> {
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
