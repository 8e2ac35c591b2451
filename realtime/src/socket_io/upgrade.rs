//! The WebSocket handshake (RFC 6455, section 4.2), and a connection with a bound on its writes.
//!
//! Two faults of Engine.IO are mended here. It writes without a deadline: a client that no longer reads would hold its
//! connection, and everything that waits for it, until the operating system gives up. And it drops a connection without
//! reading the bytes that are on their way, upon which the system resets the connection and discards the last packet, which
//! has the reason for the end. So the door makes the handshake itself and hands Engine.IO a [`Bounded`] connection, which fails
//! once a write has made no progress for too long, and lingers when it is dropped.

use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use backscroll_shard::tasks::OneShots;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::handshake::asks_for_websocket;

/// The answer to a WebSocket handshake: 101, or the status of a refusal.
pub(super) fn handshake(request: &Request<Body>) -> Response<Body> {
    let answer = |status| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    };
    let headers = request.headers();
    let asked = request.method() == Method::GET && asks_for_websocket(headers);
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| asked && key.len() == 24);
    let Some(key) = key else {
        return answer(StatusCode::BAD_REQUEST);
    };
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut response = answer(StatusCode::UPGRADE_REQUIRED);
        let versions = HeaderValue::from_static("13");
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_VERSION, versions);
        return response;
    }
    let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
        return answer(StatusCode::BAD_REQUEST);
    };
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// How long a connection lingers, so that the client can read all of it.
const LINGER: Duration = Duration::from_secs(2);

/// A function to call when a connection is dropped.
pub(super) type AtEnd = Box<dyn FnOnce() + Send>;

/// A connection that fails when a write makes no progress for `timeout`, and lingers in a task when it is dropped.
pub(super) struct Bounded<S: Linger> {
    /// Taken when it is dropped.
    inner: Option<S>,
    timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// The client has closed it, or it failed.
    over: bool,
    lingering: OneShots,
    at_end: Option<AtEnd>,
}

/// A connection that can linger.
pub(super) trait Linger: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Linger for S {}

impl<S: Linger> Bounded<S> {
    pub(super) fn new(
        inner: S,
        timeout: Duration,
        lingering: &OneShots,
        at_end: Option<AtEnd>,
    ) -> Self {
        Self {
            inner: Some(inner),
            timeout,
            stalled: None,
            over: false,
            lingering: lingering.clone(),
            at_end,
        }
    }

    /// The outcome of `call` on the connection; an error when it is pending for too long.
    fn bound<T>(
        &mut self,
        context: &mut Context<'_>,
        call: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        let outcome = call(Pin::new(inner), context);
        if let Poll::Ready(outcome) = outcome {
            self.stalled = None;
            self.over |= outcome.is_err();
            return Poll::Ready(outcome);
        }
        let timeout = self.timeout;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        self.over = true;
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: Linger> Drop for Bounded<S> {
    fn drop(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
        let inner = self.inner.take().filter(|_| !self.over);
        if let (Some(inner), Ok(_runtime)) = (inner, Handle::try_current()) {
            let lingering = tokio::time::timeout(LINGER, linger(inner));
            let _ = self.lingering.spawn(lingering); // without room for it, the connection ends at once
        }
    }
}

/// Shuts the connection down for writing, and reads until the client has done the same.
async fn linger(mut inner: impl Linger) -> io::Result<()> {
    inner.shutdown().await?;
    let mut unread = [0; 512];
    while inner.read(&mut unread).await? > 0 {}
    Ok(())
}

impl<S: Linger> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Ok(()));
        };
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(inner).poll_read(context, buffer));
        self.over |= outcome.is_err() || buffer.filled().len() == before;
        Poll::Ready(outcome)
    }
}

impl<S: Linger> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bound(context, |inner, context| inner.poll_write(context, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bound(context, |inner, context| inner.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bound(context, |inner, context| inner.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::tasks::Supervisor;

    use axum::http::HeaderMap;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stalls_fails_the_connection() {
        let (ours, theirs) = tokio::io::duplex(16);
        let lingering = OneShots::new("lingering", 1);
        let mut bounded = Bounded::new(ours, Duration::from_secs(10), &lingering, None);
        bounded.write_all(b"0123456789abcdef").await.unwrap();
        let error = bounded.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(bounded);
        assert_eq!(lingering.running(), 0, "it does not linger");
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_lingers_until_the_other_side_closes_it_too() {
        let tasks = Supervisor::default().group();
        let lingering = tasks.one_shots("lingering", 1);
        for closes in [true, false] {
            let (ours, mut theirs) = tokio::io::duplex(1000);
            let mut bounded = Bounded::new(ours, Duration::from_secs(10), &lingering, None);
            theirs.write_all(b"still under way").await.unwrap();
            bounded.write_all(b"why").await.unwrap();
            drop(bounded);
            let mut read = String::new();
            theirs.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, "why");
            let begun = tokio::time::Instant::now();
            let theirs = Some(theirs).filter(|_| !closes);
            let deadline = std::time::Instant::now() + Duration::from_secs(600);
            assert!(tasks.finish(deadline).await);
            assert_eq!(begun.elapsed() >= LINGER, theirs.is_some());
        }
    }

    #[test]
    fn only_a_websocket_handshake_is_answered() {
        let request = |change: fn(&mut HeaderMap)| {
            let mut request = Request::new(Body::empty());
            let headers = request.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
            headers.insert(SEC_WEBSOCKET_KEY, key);
            change(headers);
            handshake(&request)
        };
        let accepted = request(|_| {});
        assert_eq!(accepted.status(), 101);
        // The example of RFC 6455, section 1.3.
        let accept = &accepted.headers()[SEC_WEBSOCKET_ACCEPT];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let status = |change| request(change).status().as_u16();
        assert_eq!(status(|headers| drop(headers.remove(UPGRADE))), 400);
        assert_eq!(status(|headers| drop(headers.remove(CONNECTION))), 400);
        assert_eq!(
            status(|headers| drop(headers.remove(SEC_WEBSOCKET_KEY))),
            400
        );
        let old = |headers: &mut HeaderMap| {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        };
        assert_eq!(status(old), 426);
    }
}
