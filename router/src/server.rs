//! Connections, start and graceful stop.
//!
//! The stop, step by step: `/readyz` says no and every answer asks its connection to close; connections that stay are sent
//! away over `realtime.drain_window`; the listener goes on until they have gone and [`ServerSettings::shutdown_delay`] is
//! over, takes what the kernel has accepted, and closes; connections that are in use close
//! after their answer, those still idle after [`LINGER`] are closed; requests in flight have
//! [`ServerSettings::shutdown_timeout`]; the store finishes what it accepted (INV-ACK). A connection is never closed under
//! a request that was taken, as long as it keeps that time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use backscroll_archiver::archive::schedule;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use crate::auth::{AuthSettings, Authenticator};
use crate::deployment::Deployment;
use crate::http;
use crate::http::settings::ServerSettings;
use crate::http::state::App;
use crate::telemetry;

/// How long connections that are idle when a shutdown begins are given to send one more request, so that it is answered
/// and not cut off.
const LINGER: Duration = Duration::from_secs(1);
/// Longest wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections that stay have to finish the command they are at.
const SESSIONS_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the store has to finish after the last request.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most requests at once on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 250;
/// How long a silent HTTP/2 connection is kept before it is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Serves on `listener`, and runs the archive's schedule, until `shutdown` is cancelled; then drains, closes `deployment`
/// and returns.
///
/// # Errors
/// When it cannot start: settings that are not usable, or a file of keys that cannot be read.
pub async fn serve(
    deployment: Deployment,
    server: &ServerSettings,
    auth: &AuthSettings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let problems = server.check();
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    telemetry::init_metrics()?;
    let app = Arc::new(App::new(
        deployment.clone(),
        Authenticator::open(auth).await?,
        server,
    ));
    let service = http::service(&app, server);

    let background = TaskTracker::new();
    let stop_background = CancellationToken::new();
    background.spawn(telemetry::maintain_metrics(stop_background.clone()));
    let maintained = Arc::clone(&app);
    let stop_keys = stop_background.clone();
    background.spawn(async move { maintained.auth.maintain(stop_keys).await });

    // It ends with the first sign of a shutdown: an archive job goes on from where it was left, on another server or later.
    background.spawn(schedule::run(deployment.archive.clone(), shutdown.clone()));

    let connections = Connections::new(service, server);
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    tracing::info!(%address, "serving");
    connections
        .accept_until(&listener, shutdown.cancelled())
        .await;

    tracing::info!(
        in_flight = app.in_flight(),
        connections = connections.count(),
        "shutting down"
    );
    app.drain();
    // Whoever is sent away meanwhile finds another node; requests are served until they have gone.
    let goodbye = async {
        tokio::join!(
            tokio::time::sleep(server.shutdown_delay.0),
            app.gateway.drain()
        );
    };
    connections.accept_until(&listener, goodbye).await;
    connections.accept_backlog(&listener);
    drop(listener);
    let cut = connections.drain(server.shutdown_timeout.0).await;
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "requests did not finish in time and were cut off"
        );
    }
    app.gateway.close(SESSIONS_CLOSE_TIMEOUT).await;
    deployment.close(STORE_CLOSE_TIMEOUT).await;
    stop_background.cancel();
    background.close();
    background.wait().await;
    tracing::info!("stopped");
    Ok(())
}

/// A token that the first SIGTERM or SIGINT cancels. The second ends the process at once, with status 1.
///
/// # Errors
/// When the signals cannot be caught.
pub fn shutdown_on_signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let token = CancellationToken::new();
    let first = token.clone();
    TaskTracker::new().spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let signal = next().await;
        tracing::info!(
            signal,
            "asked to stop; the next signal ends the process at once"
        );
        first.cancel();
        let signal = next().await;
        tracing::warn!(signal, "stopping at once");
        telemetry::flush();
        std::process::exit(1);
    });
    Ok(token)
}

/// The open connections.
struct Connections<S> {
    service: S,
    protocol: Builder<TokioExecutor>,
    /// How long a connection may take until its first request.
    first_request_timeout: Duration,
    places: Arc<Semaphore>,
    max: usize,
    tasks: TaskTracker,
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
    fn new(service: S, settings: &ServerSettings) -> Self {
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
            places: Arc::new(Semaphore::new(settings.max_connections)),
            max: settings.max_connections,
            tasks: TaskTracker::new(),
            finish: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    fn count(&self) -> usize {
        self.max - self.places.available_permits()
    }

    /// Takes connections until `end`.
    async fn accept_until(&self, listener: &TcpListener, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            let next = async {
                let place = Arc::clone(&self.places).acquire_owned().await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = &mut end => return,
                next = next => next,
            };
            match (accepted, place) {
                (Ok((stream, address)), Ok(place)) => self.take(stream, address, place),
                (Err(error), _) => self.accept_failed(&error).await,
                (Ok(_), Err(_closed)) => return, // the semaphore is never closed
            }
        }
    }

    /// Takes the connections that the kernel has made already.
    fn accept_backlog(&self, listener: &TcpListener) {
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
            && let Some(Ok((stream, address))) = listener.accept().now_or_never()
        {
            self.take(stream, address, place);
        }
    }

    /// A connection that broke before it was accepted is nobody's problem; having no file descriptors left passes.
    async fn accept_failed(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if !matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset
        ) {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn take(&self, stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit) {
        // Answers are written whole; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let inner = self.service.clone();
        let asked = Arc::new(AtomicBool::new(false));
        let first_request = Arc::clone(&asked);
        let service = service_fn(move |mut request: Request<Incoming>| {
            first_request.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(address));
            inner.clone().oneshot(request.map(Body::new))
        });
        let protocol = self.protocol.clone();
        let (finish, cut) = (self.finish.clone(), self.cut.clone());
        let patience = self.first_request_timeout;
        self.tasks.spawn(async move {
            let _place = place;
            let open = metrics::gauge!("backscroll_http_connections");
            open.increment(1.0);
            let mut connection =
                pin!(protocol.serve_connection_with_upgrades(TokioIo::new(stream), service));
            let never_asked = async {
                tokio::time::sleep(patience).await;
                if asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            let mut never_asked = pin!(never_asked);
            let mut finishing = pin!(finish.cancelled());
            let mut told = false;
            loop {
                tokio::select! {
                    // How it ends, well or broken off, is the client's choice; what was answered is in the access log.
                    _ = connection.as_mut() => break,
                    () = &mut never_asked => break,
                    () = cut.cancelled() => break,
                    () = &mut finishing, if !told => {
                        told = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
            open.decrement(1.0);
        });
    }

    /// Lets requests finish for at most `timeout`, then closes what is left, and says how much that was.
    async fn drain(&self, timeout: Duration) -> usize {
        let deadline = tokio::time::Instant::now() + timeout;
        self.tasks.close();
        let linger = deadline.min(tokio::time::Instant::now() + LINGER);
        if tokio::time::timeout_at(linger, self.tasks.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        self.finish.cancel();
        if tokio::time::timeout_at(deadline, self.tasks.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let left = self.count();
        self.cut.cancel();
        self.tasks.wait().await;
        left
    }
}
