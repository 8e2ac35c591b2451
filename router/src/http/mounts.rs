//! Where routes are mounted.

use std::sync::Arc;

use axum::handler::Handler;
use utoipa_axum::router::UtoipaMethodRouter;

use super::state::App;

/// The prefixes of the chat's routes.
pub(super) const MOUNTS: [&str; 2] = ["/chat", "/api/chat"];

/// The prefix of the administrators' routes.
pub(super) const ADMIN: &str = "/admin";

/// Routes of the chat, each with its document, to be mounted.
pub(crate) type ChatRoutes = Vec<UtoipaMethodRouter<Arc<App>>>;

/// `route`, whose one operation `handler` carries out, also by POST and by PUT: front-ends that were written for other servers use
/// these. They are the same operation, which the document has once.
pub(super) fn also_by_post_and_put<H, T>(
    route: UtoipaMethodRouter<Arc<App>>,
    handler: H,
) -> UtoipaMethodRouter<Arc<App>>
where
    H: Handler<T, Arc<App>>,
    T: 'static,
{
    let (schemas, paths, methods) = route;
    (schemas, paths, methods.post(handler.clone()).put(handler))
}
