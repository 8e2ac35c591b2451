//! A connection's first request, as Engine.IO keeps it for as long as the connection lasts.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Request, Uri};
use hyper::upgrade::OnUpgrade;

use crate::admission::ConnectionPermit;

/// The permit of a connection, which travels with its first request.
#[derive(Clone)]
struct Admitted(Arc<Mutex<Option<ConnectionPermit>>>);

/// The request without its headers, which would keep the whole buffer that they were read into.
pub(super) fn kept(request: Request<Body>, permit: Option<ConnectionPermit>) -> Request<Body> {
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
    if let Some(permit) = permit {
        extensions.insert(Admitted(Arc::new(Mutex::new(Some(permit)))));
    }
    request
}

/// Takes the permit out of a first request.
pub(super) fn permit(request: &Parts) -> Option<ConnectionPermit> {
    let Admitted(permit) = request.extensions.get()?;
    permit.lock().unwrap_or_else(PoisonError::into_inner).take()
}
