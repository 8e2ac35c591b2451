//! The REST interface over the store.
//!
//! | module | what it holds |
//! |---|---|
//! | [`settings`] | section `server` of the configuration |
//! | [`state`] | what handlers share |
//! | `observe` | what surrounds every request |
//! | `extract` | what goes in: caller, path, query, body |
//! | [`problem`] | what comes out instead of a result: the table of error codes |
//! | `conversations`, `members`, `messages`, `sync` | the routes, at `/chat` and, identically, at `/api/chat` |
//! | `operations` | `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/docs` |
//!
//! A handler does three things: takes checked input, calls the store once, wraps the result. It upholds nothing of its
//! own; INV-MEMBER and INV-IDEM are the store's. INV-BOUND is kept here for bodies, headers, connections and requests
//! in flight ([`settings::ServerSettings`]).

mod conversations;
mod extract;
mod members;
mod messages;
mod observe;
mod operations;
pub mod problem;
pub mod settings;
pub mod state;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::openapi::{OpenApi, Server};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use problem::ProblemDocument;
use settings::ServerSettings;
use state::App;

/// Answers smaller than this are sent as they are: compressing them costs more than it saves.
const COMPRESS_ABOVE_BYTES: u64 = 1024;
/// How long a browser may remember what CORS allows.
const CORS_MAX_AGE: Duration = Duration::from_secs(3600);

/// The whole service.
pub fn router(app: &Arc<App>, settings: &ServerSettings) -> Router {
    let (routes, _) = documented_routes();
    let chat = routes
        .chat
        .layer(from_fn_with_state(Arc::clone(app), observe::admit));
    let docs = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESS_ABOVE_BYTES).and(NotForContentType::IMAGES));
    Router::new()
        .nest("/chat", chat.clone())
        .nest("/api/chat", chat)
        .merge(routes.operations)
        .merge(Router::from(docs))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        // The last is the outermost.
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(compression)
        .layer(option_layer(cors(settings)))
        .layer(from_fn_with_state(Arc::clone(app), observe::observe))
        .with_state(Arc::clone(app))
}

/// The routes that the document describes.
pub(crate) struct Routes {
    chat: Router<Arc<App>>,
    operations: Router<Arc<App>>,
}

/// The routes and their document.
pub(crate) fn documented_routes() -> (Routes, OpenApi) {
    let chat = || {
        conversations::routes()
            .merge(members::routes())
            .merge(messages::routes())
            .merge(sync::routes())
    };
    let mut document = crate::openapi::frame();
    document.merge(OpenApiRouter::new().nest("/chat", chat()).into_openapi());
    let mut operations = operations::routes().into_openapi();
    for item in operations.paths.paths.values_mut() {
        item.servers = Some(vec![Server::new("/")]); // not under the other prefix
    }
    document.merge(operations);
    register::<ProblemDocument<'_>>(&mut document);
    (
        Routes {
            chat: chat().into(),
            operations: operations::routes().into(),
        },
        document,
    )
}

/// Adds a schema, and those it refers to, that operations mention by name only.
fn register<T: utoipa::ToSchema>(document: &mut OpenApi) {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    document
        .components
        .get_or_insert_default()
        .schemas
        .extend(schemas);
}

/// None when browsers may call from no other origin: then there is nothing to say.
fn cors(settings: &ServerSettings) -> Option<CorsLayer> {
    if settings.cors_origins.is_empty() {
        return None;
    }
    let origins = if settings.allows_any_origin() {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            settings
                .cors_origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        )
    };
    let given = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        extract::IDEMPOTENCY_KEY,
        observe::REQUEST_ID,
    ];
    let shown: [HeaderName; 2] = [observe::REQUEST_ID, header::RETRY_AFTER];
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(given)
        .expose_headers(shown)
        .max_age(CORS_MAX_AGE);
    Some(layer)
}
