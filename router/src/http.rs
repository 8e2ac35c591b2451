//! The REST interface over the store.
//!
//! | module | what it holds |
//! |---|---|
//! | [`settings`], [`listen`] | section `server` of the configuration |
//! | [`state`] | what handlers share |
//! | `observe` | what surrounds every request |
//! | `extract` | what goes in: caller, path, query, body |
//! | [`problem`], `problem_sets` | what comes out instead of a result: the table of error codes, and which an operation has |
//! | `conversations`, `members`, `blocks`, `messages`, `media`, `notifications`, `search`, `sync` | the routes, at `/chat` and, identically, at `/api/chat` |
//! | `sanctions`, `audit` | routes of administrators |
//! | `staff` | which staff may call which route of `/admin` |
//! | `reports` | reporting messages, and the reports for administrators |
//! | `mounts` | the prefixes of the routes |
//! | [`console`] | `/console/chat`, the chat page |
//! | `objects` | `/media/objects`, where clients put and read objects of the disk store |
//! | `socket` | `/ws/chat`, the native WebSocket door |
//! | [`edge`] | what the gateway of sessions asks of this service |
//! | `unread` | answers that wait for their clients |
//! | `operations` | `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/docs` |
//!
//! A handler does three things: takes checked input, calls the store once, wraps the result. It upholds nothing of its
//! own; INV-MEMBER and INV-IDEM are the store's. INV-BOUND is kept here for bodies, headers, connections and requests
//! in flight ([`settings::ServerSettings`]).

mod audit;
mod back_ends;
mod blocks;
pub mod console;
mod conversations;
pub mod edge;
pub(crate) mod extract;
pub mod listen;
mod media;
mod members;
mod messages;
mod mounts;
mod notifications;
mod objects;
mod observe;
mod operations;
pub mod problem;
mod problem_sets;
mod reports;
mod sanctions;
mod search;
pub mod settings;
mod socket;
mod staff;
pub mod state;
mod sync;
pub(crate) mod unread;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header,
};
use axum::middleware::map_response;
use axum::response::Response;
use backscroll_realtime::socket_io::SocketIoDoor;
use tower::{Layer as _, Service, ServiceBuilder, service_fn};
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use tower_http::compression::{CompressionBody, CompressionLayer, CompressionLevel};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use mounts::{ChatRoutes, MOUNTS};
use observe::Patterns;
use settings::ServerSettings;
use state::App;

/// Answers smaller than this are sent as they are: compressing them costs more than it saves.
const COMPRESS_ABOVE_BYTES: u64 = 1024;
/// The routes of the documentation's pages.
const DOCS: [&str; 3] = ["/docs", "/docs/", "/docs/{*rest}"];
/// The request headers of this interface.
const OWN_HEADERS: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    extract::IDEMPOTENCY_KEY,
    extract::AUDIT_REASON,
    observe::REQUEST_ID,
];
/// How long a browser may remember what CORS allows.
const CORS_MAX_AGE: Duration = Duration::from_secs(3600);

/// Routes that are mounted at each of [`mounts::MOUNTS`].
pub(crate) fn chat_routes() -> ChatRoutes {
    let mut routes = conversations::routes();
    routes.extend(members::routes());
    routes.extend(blocks::routes());
    routes.extend(messages::routes());
    routes.extend(media::routes());
    routes.extend(notifications::routes());
    routes.extend(reports::routes());
    routes.extend(search::routes());
    routes.extend(sync::routes());
    routes
}

/// The whole service.
///
/// What surrounds every request is around the router as a whole: a layer of the router's own would be copied into every
/// route, and cost each request an allocation or two.
pub fn service(
    app: &Arc<App>,
    settings: &ServerSettings,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let (router, patterns) = routes();
    let router = router.with_state(Arc::clone(app));
    let guarded = {
        let app = Arc::clone(app);
        service_fn(move |request| observe::guard(Arc::clone(&app), router.clone(), request))
    };
    let guarded = SocketIoDoor::new(&app.gateway).layer(guarded);
    let cross_origin = ServiceBuilder::new()
        .option_layer(cors(settings))
        .service(guarded);
    let observed = {
        let (app, patterns) = (Arc::clone(app), Arc::new(patterns));
        service_fn(move |request| {
            let (app, patterns) = (Arc::clone(&app), Arc::clone(&patterns));
            observe::observe(app, patterns, cross_origin.clone(), request)
        })
    };
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(
            SizeAbove::new(COMPRESS_ABOVE_BYTES)
                .and(NotForContentType::IMAGES)
                .and(is_not_stored),
        );
    ServiceBuilder::new()
        .map_response(|response: axum::http::Response<CompressionBody<Body>>| {
            response.map(Body::new)
        })
        .layer(compression)
        .service(observed)
}

/// Objects are sent as they are stored.
fn is_not_stored(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<objects::AsStored>().is_none()
}

/// Routes that have one address.
pub(crate) fn single_routes() -> OpenApiRouter<Arc<App>> {
    operations::routes()
        .merge(notifications::admin_routes())
        .merge(sanctions::admin_routes())
        .merge(back_ends::admin_routes())
        .merge(audit::admin_routes())
        .merge(reports::admin_routes())
}

/// Every route, and the patterns by which observations name them.
fn routes() -> (Router<Arc<App>>, Patterns) {
    let mut router = Router::new();
    let mut patterns = Patterns::default();
    for mount in MOUNTS {
        for (_, paths, handlers) in chat_routes() {
            for path in paths.paths.keys() {
                let pattern = format!("{mount}{path}");
                router = router.route(&pattern, handlers.clone());
                patterns.add(&pattern);
            }
        }
    }
    let (operations, document) = single_routes().split_for_parts();
    for path in document.paths.paths.keys() {
        patterns.add(path);
    }
    for path in DOCS {
        patterns.add(path);
    }
    patterns.add(socket::PATH);
    patterns.add(objects::PATTERN);
    for path in console::PATTERNS {
        patterns.add(path);
    }
    for path in ["/socket.io", "/socket.io/"] {
        patterns.add(path);
    }
    // Relative addresses, as a proxy may serve all of this under a path.
    let docs = SwaggerUi::new("/docs").config(Config::from("../openapi.json"));
    let docs = Router::from(docs).layer(map_response(redirect_from_here));
    let router = router
        .merge(operations)
        .merge(socket::routes())
        .merge(objects::routes())
        .merge(console::routes())
        .merge(docs)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed);
    (router, patterns)
}

/// Redirects from `/docs` to `/docs/` relative to the address that was asked for.
async fn redirect_from_here(mut response: Response) -> Response {
    if let Some(location) = response.headers_mut().get_mut(header::LOCATION)
        && location == "/docs/"
    {
        *location = HeaderValue::from_static("docs/");
    }
    response
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
    let headers = if settings.allows_any_header() {
        AllowHeaders::mirror_request()
    } else {
        let added = settings.cors_headers.iter();
        let added = added.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        AllowHeaders::list(OWN_HEADERS.into_iter().chain(added))
    };
    let shown: [HeaderName; 4] = [
        observe::REQUEST_ID,
        header::RETRY_AFTER,
        problem::RATE_LIMIT_POLICY,
        problem::RATE_LIMIT,
    ];
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(headers)
        // For the cookie of a load balancer with sticky sessions: tokens are never in cookies. Not for any origin.
        .allow_credentials(!settings.allows_any_origin())
        .expose_headers(shown)
        .max_age(CORS_MAX_AGE);
    Some(layer)
}
