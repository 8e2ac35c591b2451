//! Where routes are mounted.

use std::sync::Arc;

use utoipa_axum::router::UtoipaMethodRouter;

use super::state::App;

/// The prefixes of the chat's routes.
pub(super) const MOUNTS: [&str; 2] = ["/chat", "/api/chat"];

/// The prefix of the administrators' routes.
pub(super) const ADMIN: &str = "/admin";

/// Routes of the chat, each with its document, to be mounted.
pub(crate) type ChatRoutes = Vec<UtoipaMethodRouter<Arc<App>>>;
