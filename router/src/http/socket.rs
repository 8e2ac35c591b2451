//! `/ws/chat`: the native WebSocket door. What happens behind it is in [`backscroll_realtime`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{ConnectInfo, FromRequestParts as _, Request, State};
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::routing::get;
use backscroll_realtime::admission::{Refused, Token};
use backscroll_realtime::edge::{AUTHENTICATE_WITHIN, Identity};
use backscroll_realtime::handshake;
use backscroll_realtime::native::{self, BEARER, Credentials};

use super::extract::bearer_token;
use super::problem::{Code, Problem};
use super::state::App;

/// Where the door is.
pub(super) const PATH: &str = "/ws/chat";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route(PATH, get(connect))
}

async fn connect(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let address = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip());
    handshake::in_one_form(&mut parts.headers);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &app).await;
    let upgrade = upgrade.map_err(|rejection| not_a_websocket(&rejection))?;
    // The token first: connections without a good one spend nothing of what the others have.
    let credentials = credentials(&app, &parts.headers, &parts.uri).await?;
    let token = match credentials {
        Credentials::Known(_) => Token::Checked,
        _ => Token::Later,
    };
    let place = app.gateway.admit(address, token).map_err(refused)?;
    let task = app.gateway.session_tasks().reserve();
    let task = task.map_err(|_full| refused(Refused::Full))?;
    let gateway = Arc::clone(&app.gateway);
    let upgrade = native::bounded(upgrade, gateway.settings().max_frame);
    Ok(upgrade
        .on_upgrade(move |socket| task.watch(native::serve(gateway, place, socket, credentials))))
}

/// A header is answered as any request's; what a browser can send, with a close code, as it does not see the answer.
async fn credentials(
    app: &App,
    headers: &HeaderMap,
    address: &Uri,
) -> Result<Credentials, Problem> {
    if headers.contains_key(AUTHORIZATION) {
        let deadline = Instant::now() + AUTHENTICATE_WITHIN;
        let identity = app.auth.verify(bearer_token(headers)?, deadline).await?;
        return Ok(Credentials::Known(Identity {
            user: identity.user,
            issued_at: identity.issued_at,
            expires_at: identity.expires_at,
            key: identity.key,
        }));
    }
    let protocols = headers
        .get(SEC_WEBSOCKET_PROTOCOL)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut protocols = protocols.split(',').map(str::trim);
    Ok(match (protocols.next(), protocols.next()) {
        (Some(BEARER), Some(token)) => Credentials::Token(token.to_owned()),
        _ => match native::token_in(address) {
            Some(token) => Credentials::Address(token.to_owned()),
            None => Credentials::FirstFrame,
        },
    })
}

fn not_a_websocket(rejection: &WebSocketUpgradeRejection) -> Problem {
    Problem::invalid(format!(
        "connect with WebSocket here: {}",
        rejection.body_text()
    ))
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Draining => Problem::new(
            Code::ShuttingDown,
            "this node is stopping; connect to another",
        ),
        Refused::Full => Problem::new(Code::Overloaded, "there are too many connections just now"),
        Refused::Address => Problem::new(
            Code::RateLimited,
            "there are too many connections from this address",
        ),
    }
}
