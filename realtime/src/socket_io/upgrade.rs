//! The WebSocket handshake (RFC 6455, section 4.2), and a connection whose writes may not stall.
//!
//! Engine.IO writes without a deadline: a client that no longer reads would hold its connection, and all that waits for it,
//! until the system gives up on it. So the door makes the handshake itself and gives Engine.IO a [`Bounded`] connection,
//! which breaks once a write has made no progress for too long.

use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The answer to a WebSocket handshake: 101, or why not.
pub(super) fn handshake(request: &Request<Body>) -> Response<Body> {
    let answer = |status| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    };
    let headers = request.headers();
    let asked = request.method() == Method::GET
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &UPGRADE, "websocket");
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

/// Whether a header's list has `word`.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut words = value.to_str().unwrap_or_default().split(',');
        words.any(|each| each.trim().eq_ignore_ascii_case(word))
    })
}

/// What is done when a connection is dropped.
pub(super) type AtEnd = Box<dyn FnOnce() + Send>;

/// A connection that breaks when a write makes no progress for `patience`.
pub(super) struct Bounded<S> {
    inner: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    at_end: Option<AtEnd>,
}

impl<S> Bounded<S> {
    pub(super) fn new(inner: S, patience: Duration, at_end: Option<AtEnd>) -> Self {
        Self {
            inner,
            patience,
            stalled: None,
            at_end,
        }
    }

    /// `outcome`, unless it has been pending for too long.
    fn bound<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S> Drop for Bounded<S> {
    fn drop(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, data);
        self.bound(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.bound(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.bound(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_write_that_stalls_breaks_the_connection() {
        let (ours, theirs) = tokio::io::duplex(16);
        let mut bounded = Bounded::new(ours, Duration::from_millis(50), None);
        bounded.write_all(b"0123456789abcdef").await.unwrap();
        let error = bounded.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(theirs);
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
