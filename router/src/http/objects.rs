//! `/media/objects/…`: the signed requests by which clients put and read objects of the disk store. A bucket answers its own.
//!
//! No token is asked for: the address is the permission. What is answered is in
//! [`Door`](backscroll_archiver::object_store::disk::door::Door); here a refusal becomes a problem.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use backscroll_archiver::object_store::disk::door::Refusal;

use super::problem::{self, Code, Problem};
use super::state::App;

/// The route.
pub(super) const PATTERN: &str = "/media/objects/{*key}";

/// Marks an answer that is sent as it is stored: ranges of it are asked for.
#[derive(Clone, Copy)]
pub(super) struct AsStored;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route(PATTERN, get(answer).merge(put(answer)))
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let Some(door) = app.door() else {
        return Err(problem::nothing_here());
    };
    let mut response = door.answer(request).await?.map(Body::new);
    response.extensions_mut().insert(AsStored);
    Ok(response.into_response())
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (code, detail) = match &refusal {
            Refusal::Signature => (Code::AddressInvalid, refusal.to_string()),
            Refusal::Expired => (Code::AddressExpired, refusal.to_string()),
            Refusal::NotFound => (Code::NotFound, refusal.to_string()),
            Refusal::Range(_) => (Code::RangeNotSatisfiable, refusal.to_string()),
            Refusal::Body => (Code::RequestTimeout, refusal.to_string()),
            Refusal::Busy => (Code::Overloaded, refusal.to_string()),
            Refusal::Store(error) => return Self::objects(error),
        };
        Self::new(code, detail)
    }
}
