//! Tries the address at which clients put and get files: a round trip of signed requests as browsers make them, from each origin
//! that may call this service. Where a bucket does not let browsers in, the remedy is the rule to give it.
//!
//! A crash leaves one small object under `probe/`.

use std::error::Error;
use std::time::{Duration, Instant};

use backscroll_archiver::object_store::{
    ObjectKey, ObjectStore, ObjectStoreSettings, SignedAnswer, SignedContent, StoreError, StoreKind,
};
use reqwest::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, HeaderMap,
    HeaderName, ORIGIN, RANGE,
};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use serde_json::json;

use super::Finding;

const SUBJECT: &str = "addresses of files";
/// Longest round trip.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest request.
const REQUEST: Duration = Duration::from_secs(5);
/// For how long the signed requests are valid.
const VALID_FOR: Duration = Duration::from_secs(60);
const CONTENT_TYPE: &str = "application/octet-stream";
/// Stands for all origins where any may call.
const SOME_ORIGIN: &str = "https://some.example";
/// What browsers give as the origin of a request that was redirected from another origin: reads of a bucket come by the service.
const REDIRECTED: &str = "null";

/// What is found; nothing where clients are given paths on the server that they ask.
pub(super) async fn examine(
    store: &dyn ObjectStore,
    settings: &ObjectStoreSettings,
    origins: &[String],
) -> Option<Finding> {
    if settings.kind == StoreKind::Disk && settings.public_endpoint.is_none() {
        return None;
    }
    let trial = match Trial::new(store, settings, origins) {
        Ok(trial) => trial,
        Err(error) => {
            return Some(trouble_finding(&Trouble::from(error), settings, origins));
        }
    };
    let begun = Instant::now();
    let tried = tokio::time::timeout(PATIENCE, trial.round_trip()).await;
    let deleted = store.delete(&trial.key).await;
    let outcome = match tried {
        Err(_) => Err(Trouble::NoAnswer("no answer in time".into())),
        Ok(Err(trouble)) => Err(trouble),
        Ok(Ok(())) => deleted.map_err(Trouble::Store),
    };
    Some(match outcome {
        Ok(()) => passed(begun.elapsed(), origins),
        Err(trouble) => trouble_finding(&trouble, settings, origins),
    })
}

fn passed(took: Duration, origins: &[String]) -> Finding {
    let from = match origins {
        [] => "; server.cors_origins has no origins to try it from".to_owned(),
        origins => format!(", from {} too", origins.join(", ")),
    };
    let took = took.as_millis();
    let detail = format!("clients can put and get files there{from}; it took {took} ms");
    Finding::ok(SUBJECT, detail)
}

/// What does not work.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    NoAnswer(String),
    #[error("a signed {method} is answered with {status}")]
    Refused { method: Method, status: StatusCode },
    #[error("a range of what was put is answered with other bytes")]
    OtherBytes,
    #[error("browsers may not {method} from {origin}: {why}")]
    Browser {
        method: Method,
        origin: String,
        why: String,
    },
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url(); // it is signed
        let mut causes = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self::NoAnswer(causes.join(": "))
    }
}

fn trouble_finding(
    trouble: &Trouble,
    settings: &ObjectStoreSettings,
    origins: &[String],
) -> Finding {
    let address = settings
        .public_endpoint
        .as_ref()
        .or(settings.endpoint.as_ref());
    let address = address.map_or("Amazon S3", String::as_str);
    let detail = format!("{address}: {trouble}");
    match (trouble, settings.kind) {
        // Doctor may run before the service does.
        (Trouble::NoAnswer(_), StoreKind::Disk) => {
            let remedy = "nothing to do if no service runs yet; else make object_store.public_endpoint its address for clients";
            Finding::warning(SUBJECT, detail, remedy)
        }
        (Trouble::Browser { .. }, StoreKind::Disk) => {
            let remedy = "run the service there with this server.cors_origins, and let no proxy answer or change CORS";
            Finding::failure(SUBJECT, detail, remedy)
        }
        (Trouble::Browser { .. }, StoreKind::S3) => {
            let rule = cors_command(settings, origins);
            let remedy = format!("give the bucket this rule: {rule}");
            Finding::failure(SUBJECT, detail, remedy)
        }
        (Trouble::Refused { .. }, _) => {
            let remedy = "let nothing between clients and the store change hosts, paths or headers: signatures cover them";
            Finding::failure(SUBJECT, detail, remedy)
        }
        _ => {
            let remedy = "check object_store.public_endpoint, and that clients (this machine included) reach it";
            Finding::failure(SUBJECT, detail, remedy)
        }
    }
}

/// The command that gives the bucket the rule that browsers need. Reads are allowed from everywhere: browsers do not say from where a
/// redirected request comes, and the address of a file is a secret of its own.
fn cors_command(settings: &ObjectStoreSettings, origins: &[String]) -> String {
    let rules = json!({ "CORSRules": [
        { "AllowedOrigins": origins, "AllowedMethods": ["PUT"], "AllowedHeaders": ["content-type"], "MaxAgeSeconds": 3600 },
        { "AllowedOrigins": ["*"], "AllowedMethods": ["GET", "HEAD"], "AllowedHeaders": ["range"], "MaxAgeSeconds": 3600 },
    ] });
    let endpoint = settings.endpoint.as_ref();
    let endpoint = endpoint.map_or(String::new(), |it| format!(" --endpoint-url {it}"));
    let bucket = &settings.bucket;
    format!("aws s3api put-bucket-cors --bucket {bucket}{endpoint} --cors-configuration '{rules}'")
}

/// A round trip under way.
struct Trial<'a> {
    store: &'a dyn ObjectStore,
    client: Client,
    key: ObjectKey,
    content: String,
    /// Where uploads come from.
    writers: Vec<String>,
    /// Where reads come from.
    readers: Vec<String>,
}

impl<'a> Trial<'a> {
    fn new(
        store: &'a dyn ObjectStore,
        settings: &ObjectStoreSettings,
        origins: &[String],
    ) -> reqwest::Result<Self> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(REQUEST)
            .build()?;
        let name = format!("probe/{:032x}", rand::random::<u128>());
        #[expect(clippy::expect_used, reason = "digits and a slash are a key")]
        let key = ObjectKey::new(name).expect("valid");
        let concrete = |origin: &String| match origin.as_str() {
            "*" => SOME_ORIGIN.to_owned(),
            _ => origin.clone(),
        };
        let writers: Vec<String> = origins.iter().map(concrete).collect();
        let readers = match settings.kind {
            StoreKind::S3 if !writers.is_empty() => vec![REDIRECTED.to_owned()],
            _ => writers.clone(),
        };
        let content = format!("backscroll tries this address out: {key}\n");
        Ok(Self {
            store,
            client,
            key,
            content,
            writers,
            readers,
        })
    }

    async fn round_trip(&self) -> Result<(), Trouble> {
        let content = SignedContent {
            bytes: self.content.len() as u64,
            content_type: CONTENT_TYPE,
        };
        let signed = self.store.sign_put(&self.key, &content, VALID_FOR).await?;
        let is_named = |name: &str| !name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str());
        let names = signed.headers.iter().map(|header| header.name.as_str());
        let names: Vec<&str> = names.filter(|name| is_named(name)).collect();
        for origin in &self.writers {
            self.preflight(&signed.url, origin, &names).await?;
        }
        // Once without an origin, too: as clients do that are no browsers.
        for origin in all(&self.writers) {
            let mut put = self.client.put(&signed.url).body(self.content.clone());
            for header in signed.headers.iter().filter(|it| is_named(&it.name)) {
                put = put.header(&header.name, &header.value);
            }
            self.send(put, &Method::PUT, origin).await?;
        }
        let answer = SignedAnswer {
            content_type: CONTENT_TYPE,
            disposition: "attachment",
        };
        let url = self.store.sign_get(&self.key, &answer, VALID_FOR).await?;
        for origin in all(&self.readers) {
            let get = self.client.get(&url).header(RANGE, "bytes=10-19");
            let response = self.send(get, &Method::GET, origin).await?;
            let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
            if !is_part || response.bytes().await? != self.content.as_bytes()[10..20] {
                return Err(Trouble::OtherBytes);
            }
        }
        Ok(())
    }

    /// Asks as a browser does before it puts.
    async fn preflight(&self, url: &str, origin: &str, names: &[&str]) -> Result<(), Trouble> {
        let refused = |why: String| Trouble::Browser {
            method: Method::PUT,
            origin: origin.to_owned(),
            why,
        };
        let ask = self.client.request(Method::OPTIONS, url);
        let ask = ask
            .header(ORIGIN, origin)
            .header(ACCESS_CONTROL_REQUEST_METHOD, "PUT");
        let ask = ask.header(ACCESS_CONTROL_REQUEST_HEADERS, names.join(","));
        let answer = ask.send().await?;
        if !answer.status().is_success() {
            let status = answer.status();
            return Err(refused(format!("the preflight is answered with {status}")));
        }
        let headers = answer.headers();
        check_origin(headers, &Method::PUT, origin)?;
        if !lists(headers, &ACCESS_CONTROL_ALLOW_METHODS, "PUT") {
            return Err(refused("the preflight does not allow PUT".into()));
        }
        let missing = names
            .iter()
            .find(|name| !lists(headers, &ACCESS_CONTROL_ALLOW_HEADERS, name));
        match missing {
            None => Ok(()),
            Some(name) => Err(refused(format!(
                "the preflight does not allow the header {name}"
            ))),
        }
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        method: &Method,
        origin: Option<&str>,
    ) -> Result<Response, Trouble> {
        let request = match origin {
            None => request,
            Some(origin) => request.header(ORIGIN, origin),
        };
        let response = request.send().await?;
        if !response.status().is_success() {
            let (method, status) = (method.clone(), response.status());
            return Err(Trouble::Refused { method, status });
        }
        if let Some(origin) = origin {
            check_origin(response.headers(), method, origin)?;
        }
        Ok(response)
    }
}

/// Without an origin, and from each.
fn all(origins: &[String]) -> impl Iterator<Item = Option<&str>> {
    let each = origins.iter().map(|origin| Some(origin.as_str()));
    std::iter::once(None).chain(each)
}

fn check_origin(headers: &HeaderMap, method: &Method, origin: &str) -> Result<(), Trouble> {
    let allowed = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
    if allowed.is_some_and(|allowed| allowed == "*" || allowed == origin) {
        return Ok(());
    }
    Err(Trouble::Browser {
        method: method.clone(),
        origin: origin.to_owned(),
        why: "the answer does not allow this origin".into(),
    })
}

/// Whether a header that is a list has the name, or stands for all.
fn lists(headers: &HeaderMap, header: &HeaderName, name: &str) -> bool {
    let values = headers.get_all(header).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut names = values.flat_map(|value| value.split(',').map(str::trim));
    names.any(|one| one == "*" || one.eq_ignore_ascii_case(name))
}
