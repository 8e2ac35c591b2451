//! The open connections: accepted by one task, served by one each.
//!
//! Nothing is held for a client that does not read (INV-BOUND): a write that makes no progress for
//! [`ServerSettings::write_timeout`] ends the connection, and so does an answer of which the client takes nothing for as long,
//! as with HTTP/2 and a window of 0.

mod deadline;
mod pace;
mod proxy_protocol;
mod registry;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use backscroll_shard::tasks::{OneShots, Supervisor, TaskGroup};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use crate::http::settings::ServerSettings;
use crate::http::unread::{ConnectionAnswers, UnreadAnswers};
use crate::metrics;

use deadline::WriteDeadline;
use pace::Paced;
use registry::{Open, Registry};

/// How long connections that are idle when a shutdown begins are given to send one more request, so that it is answered
/// and not cut off.
const LINGER: Duration = Duration::from_secs(1);
/// How long the accepting task, and connections that are cut, may take to end.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a proxy may take to name its client.
const PROXY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the system keeps of a connection's answers for a client that does not read. By itself it takes several MiB, which no
/// deadline of this process sees. A client reads at most so much in a round trip: 2.5 MiB/s at 100 ms.
const SEND_BUFFER: usize = 256 << 10;
/// Longest wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a connection that is to give way may take, before another is asked.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
/// Most requests at once on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 250;
/// How long a silent HTTP/2 connection is kept before it is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// The open connections.
pub(super) struct Connections<S> {
    service: S,
    protocol: Builder<TokioExecutor>,
    /// How long a connection may take until its first request.
    first_request_timeout: Duration,
    /// How long a client may read nothing of what it is sent.
    write_timeout: Duration,
    registry: Arc<Registry>,
    answers: Arc<UnreadAnswers>,
    places: Arc<Semaphore>,
    max: usize,
    max_per_address: usize,
    proxy_protocol: bool,
    tasks: TaskGroup,
    open: OneShots,
    accepting: TaskGroup,
    /// Cancelled to take no more.
    stop_accepting: CancellationToken,
    /// Cancelled to close them as soon as no request is in flight.
    finish: CancellationToken,
    /// Cancelled to close them now.
    cut: CancellationToken,
}

impl<S> Connections<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    /// Begins to take connections from `listener`.
    pub(super) fn accept(
        service: S,
        (settings, answers): (&ServerSettings, &Arc<UnreadAnswers>),
        listener: TcpListener,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let connections = Arc::new(Self::new(service, settings, answers, supervisor));
        let (taking, listener) = (Arc::clone(&connections), Arc::new(listener));
        let stop = &connections.stop_accepting;
        connections.accepting.supervise("accept", stop, move || {
            Arc::clone(&taking).take_all(Arc::clone(&listener))
        });
        connections
    }

    fn new(
        service: S,
        settings: &ServerSettings,
        answers: &Arc<UnreadAnswers>,
        supervisor: &Supervisor,
    ) -> Self {
        let tasks = supervisor.group();
        let mut protocol = Builder::new(TokioExecutor::new());
        let max_header = u32::try_from(settings.max_header).unwrap_or(u32::MAX);
        protocol
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout.0)
            .max_buf_size(settings.max_header);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(max_header)
            .max_concurrent_streams(HTTP2_STREAMS)
            .keep_alive_interval(HTTP2_PING_INTERVAL);
        Self {
            service,
            protocol,
            first_request_timeout: settings.header_timeout.0,
            write_timeout: settings.write_timeout.0,
            registry: Registry::new(),
            answers: Arc::clone(answers),
            places: Arc::new(Semaphore::new(settings.max_connections)),
            max: settings.max_connections,
            max_per_address: settings.connections_per_ip,
            proxy_protocol: settings.proxy_protocol,
            open: tasks.one_shots("http-connection", settings.max_connections),
            tasks,
            accepting: supervisor.group(),
            stop_accepting: CancellationToken::new(),
            finish: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.max - self.places.available_permits()
    }

    /// Takes connections until it is to stop; then those that the kernel has made already.
    async fn take_all(self: Arc<Self>, listener: Arc<TcpListener>) {
        loop {
            let next = async {
                let accepted = listener.accept().await;
                (accepted, self.place().await)
            };
            match self.stop_accepting.run_until_cancelled(next).await {
                Some((Ok((stream, address)), Ok(place))) => self.take(stream, address, place),
                Some((Err(error), _)) => accept_failed(&error).await,
                Some((Ok(_), Err(_closed))) => {} // the semaphore is never closed
                None => break,
            }
        }
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
            && let Some(Ok((stream, address))) = listener.accept().now_or_never()
        {
            self.take(stream, address, place);
        }
    }

    /// A place for a connection. When all are taken, one that is idle gives way.
    async fn place(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        loop {
            self.registry.make_room(None);
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(place) = tokio::time::timeout(ROOM_PAUSE, place).await {
                return place;
            }
        }
    }

    /// Whether an address may have another connection: one of its idle ones gives way for it.
    fn admit(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        self.max_per_address == 0
            || self.registry.count_of(ip) < self.max_per_address
            || self.registry.make_room(Some(ip))
    }

    fn take(
        self: &Arc<Self>,
        mut stream: TcpStream,
        mut address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) {
        let Ok(task) = self.open.reserve() else {
            return; // there are as many places
        };
        // Answers are written whole; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
        if !self.proxy_protocol {
            if self.admit(address) {
                task.spawn(self.serve(stream, address, place));
            }
            return; // or it is closed
        }
        let connections = Arc::clone(self);
        task.spawn(async move {
            let client = proxy_protocol::client(&mut stream);
            match tokio::time::timeout(PROXY_TIMEOUT, client).await {
                Ok(Ok(client)) => address = client.unwrap_or(address),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "a connection has no right PROXY header");
                    return;
                }
                Err(_) => return,
            }
            if connections.admit(address) {
                connections.serve(stream, address, place).await;
            }
        });
    }

    /// Serves a connection until it ends.
    fn serve(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let is_socket = Arc::new(AtomicBool::new(false));
        let stream = WriteDeadline::new(stream, self.write_timeout);
        let stream = Paced::new(stream, Arc::clone(&is_socket));
        let inner = self.service.clone();
        let registered = self.registry.add(address, self.answers.of_connection());
        let (registry, open) = (
            Arc::clone(&self.registry),
            Arc::clone(&registered.connection),
        );
        let service = service_fn(move |mut request: Request<Incoming>| {
            let in_flight = registry.begin(&open);
            let extensions = request.extensions_mut();
            extensions.insert(ConnectInfo(address));
            extensions.insert(Arc::clone(&open.answers));
            let answering = inner.clone().oneshot(request.map(Body::new));
            let is_socket = Arc::clone(&is_socket);
            async move {
                let Ok(answer) = answering.await;
                drop(in_flight);
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    is_socket.store(true, Ordering::Relaxed);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let protocol = self.protocol.clone();
        let (finish, cut) = (self.finish.clone(), self.cut.clone());
        let (patience, write_timeout) = (self.first_request_timeout, self.write_timeout);
        async move {
            let _place = place;
            let open = metrics::HTTP_CONNECTIONS.series();
            open.increment(1.0);
            let mut connection =
                pin!(protocol.serve_connection_with_upgrades(TokioIo::new(stream), service));
            let connected = Arc::clone(&registered.connection);
            let never_asked = never_asked(&connected, patience);
            let never_reads = never_reads(&connected.answers, write_timeout);
            let (mut never_asked, mut never_reads) = (pin!(never_asked), pin!(never_reads));
            let mut gives_way = pin!(connected.gives_way.cancelled());
            let mut finishing = pin!(finish.cancelled());
            let mut told = false;
            loop {
                tokio::select! {
                    // How it ends, well or broken off, is the client's choice; what was answered is in the access log.
                    _ = connection.as_mut() => break,
                    () = &mut never_asked => break,
                    () = &mut never_reads => break,
                    () = cut.cancelled() => break,
                    () = &mut gives_way, if !told => {
                        told = true;
                        if !connected.has_asked() {
                            break;
                        }
                        connection.as_mut().graceful_shutdown();
                    }
                    () = &mut finishing, if !told => {
                        told = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
            open.decrement(1.0);
        }
    }

    /// Takes no more, lets requests finish for at most `timeout`, then closes what is left, and says how much that was.
    pub(super) async fn drain(&self, timeout: Duration) -> usize {
        self.stop_accepting.cancel();
        self.accepting.finish(Instant::now() + CUT_TIMEOUT).await;
        let deadline = Instant::now() + timeout;
        let linger = deadline.min(Instant::now() + LINGER);
        if self.tasks.finish(linger).await {
            return 0;
        }
        self.finish.cancel();
        if self.tasks.finish(deadline).await {
            return 0;
        }
        let left = self.count();
        self.cut.cancel();
        self.tasks.finish(Instant::now() + CUT_TIMEOUT).await;
        left
    }
}

/// Ends when no request has come for so long.
async fn never_asked(connection: &Open, patience: Duration) {
    tokio::time::sleep(patience).await;
    if connection.has_asked() {
        std::future::pending::<()>().await;
    }
}

/// Ends when answers wait and the client has taken nothing of them for so long.
async fn never_reads(answers: &ConnectionAnswers, patience: Duration) {
    let mut before = None;
    loop {
        tokio::time::sleep(patience).await;
        let now = answers.progress();
        if now.is_some() && now == before {
            return;
        }
        before = now;
    }
}

/// A connection that broke before it was accepted is nobody's problem; having no file descriptors left passes.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
