//! `/console/chat`: the chat page, out of this binary.
//!
//! The files are `console/chat/dist`, which `npm run build` makes there and CI compares with the sources. The page is served with
//! `console.chat`, and in the demo, where the holder of one person's token may also have those of the others: two of them
//! talk in one window. It is an application like any other: what it shows comes through the API, with the user's token.
//!
//! Its policy lets it load nothing from anywhere else and run no script but its own, so that no content of a message can.
//! Files have their hash in their name and may be kept for ever; the page that names them may not be kept.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use backscroll_archiver::object_store::{ObjectStoreSettings, StoreKind};
use backscroll_shard::ids::UserId;
use serde::{Deserialize, Serialize};

use super::extract::{Bearer, Path};
use super::problem::{self, Problem};
use super::state::App;
use crate::auth::{AuthSettings, mint_token};
use crate::config::Config;

/// The routes, as observations name them.
pub(super) const PATTERNS: [&str; 5] = [
    "/",
    "/console/chat",
    "/console/chat/",
    "/console/chat/people",
    "/console/chat/{file}",
];
/// How long the tokens of the demo's people are valid.
const TOKENS_VALID: Duration = Duration::from_secs(30 * 86_400);
const KEPT_FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const ASKED_FOR_ANEW: HeaderValue = HeaderValue::from_static("no-cache");

/// The page itself.
const PAGE: &str = include_str!("../../console/chat/dist/index.html");
/// Name, type and content of what the page loads.
const FILES: &[(&str, &str, &[u8])] = include!("../../console/chat/dist/files.rs");

/// Section `console`: pages for people that this server has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleSettings {
    /// Serve the chat page at `/console/chat`, for users with a token.
    pub chat: bool,
    /// The demo's people, whose tokens are given to each other.
    #[serde(skip)]
    pub people: Vec<UserId>,
}

/// The chat page of a server that has one.
pub struct Console {
    people: Vec<UserId>,
    auth: AuthSettings,
    policy: HeaderValue,
}

impl Console {
    /// The page as `config` wants it; none when it wants none.
    ///
    /// # Errors
    /// When the object store's address cannot stand in a header.
    pub fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        if !config.console.chat {
            return Ok(None);
        }
        Ok(Some(Self {
            people: config.console.people.clone(),
            auth: config.auth.clone(),
            policy: HeaderValue::try_from(policy(
                &config.object_store,
                config.media.cdn.as_deref(),
            ))?,
        }))
    }
}

/// Nothing but this server, the bucket to which files go, and the bucket or CDN from which they come.
fn policy(objects: &ObjectStoreSettings, cdn: Option<&str>) -> String {
    let given = objects.public_endpoint.as_ref();
    let address = given.or(objects.endpoint.as_ref());
    let origin = address.and_then(|address| reqwest::Url::parse(address).ok());
    let bucket = match (objects.kind, origin) {
        (_, Some(url)) => {
            let origin = url.origin().ascii_serialization();
            let host = origin.replacen("://", "://*.", 1); // where the bucket is named by the host
            match url.domain() {
                Some(_) if !objects.path_style => format!(" {origin} {host}"),
                _ => format!(" {origin}"),
            }
        }
        (StoreKind::S3, None) => " https://*.amazonaws.com".to_owned(),
        (StoreKind::Disk, None) => String::new(),
    };
    let cdn = cdn.and_then(|cdn| reqwest::Url::parse(cdn).ok());
    let cdn = cdn.map_or(String::new(), |url| {
        format!(" {}", url.origin().ascii_serialization())
    });
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; \
         connect-src 'self'{bucket}{cdn}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

pub(super) fn routes() -> Router<Arc<App>> {
    let [root, page, slashed, people, file] = PATTERNS;
    Router::new()
        .route(root, get(show_root))
        .route(page, get(show_page))
        .route(slashed, get(show_root))
        .route(people, get(list_people))
        .route(file, get(show_file))
}

fn console(app: &App) -> Result<&Console, Problem> {
    app.console.as_ref().ok_or_else(problem::nothing_here)
}

async fn show_root(State(app): State<Arc<App>>) -> Result<Redirect, Problem> {
    console(&app)?;
    Ok(Redirect::temporary("/console/chat"))
}

async fn show_page(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let policy = console(&app)?.policy.clone();
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (CACHE_CONTROL, ASKED_FOR_ANEW),
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((headers, PAGE).into_response())
}

async fn show_file(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    console(&app)?;
    let found = FILES.iter().find(|(file, ..)| *file == name);
    let (_, content_type, content) = *found.ok_or_else(problem::nothing_here)?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, KEPT_FOR_EVER),
    ];
    Ok((headers, content).into_response())
}

/// The demo's people.
#[derive(Serialize)]
struct People {
    people: Vec<Person>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Person {
    user_id: UserId,
    token: String,
}

/// Asks for a token like everything else: the address that the demo prints has one.
async fn list_people(_me: Bearer, State(app): State<Arc<App>>) -> Result<Answer<People>, Problem> {
    let console = console(&app)?;
    if console.people.is_empty() {
        return Err(problem::nothing_here());
    }
    let person = |user: &UserId| {
        let token = mint_token(&console.auth, user, None, TOKENS_VALID)?;
        Ok(Person {
            user_id: user.clone(),
            token,
        })
    };
    let people: anyhow::Result<Vec<Person>> = console.people.iter().map(person).collect();
    let people = people.map_err(|error| Problem::internal(error.to_string()))?;
    Ok(Answer(People { people }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(objects: &ObjectStoreSettings) -> String {
        let policy = policy(objects, None);
        let (_, after) = policy.split_once("connect-src ").unwrap();
        after.split(';').next().unwrap().to_owned()
    }

    #[test]
    fn the_page_may_call_this_server_and_the_bucket_only() {
        let disk = ObjectStoreSettings::default();
        assert_eq!(sources(&disk), "'self'");
        let elsewhere = ObjectStoreSettings {
            public_endpoint: Some("https://chat.example.org".into()),
            path_style: true,
            ..disk
        };
        assert_eq!(sources(&elsewhere), "'self' https://chat.example.org");
        let bucket = ObjectStoreSettings {
            kind: StoreKind::S3,
            endpoint: Some("http://10.0.0.7:3900".into()),
            public_endpoint: Some("https://objects.example.org".into()),
            path_style: false,
            ..elsewhere
        };
        let named = "'self' https://objects.example.org https://*.objects.example.org";
        assert_eq!(sources(&bucket), named);
        let amazon = ObjectStoreSettings {
            endpoint: None,
            public_endpoint: None,
            ..bucket
        };
        assert_eq!(sources(&amazon), "'self' https://*.amazonaws.com");
        let with_cdn = policy(&amazon, Some("https://cdn.example.org"));
        assert!(
            with_cdn.contains("https://*.amazonaws.com https://cdn.example.org;"),
            "{with_cdn}"
        );
    }
}
