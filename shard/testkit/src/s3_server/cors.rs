//! Which origins browsers may use the bucket from: S3's CORS rules, the first that fits.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use hyper::{HeaderMap, Method, Request};

/// A rule of the bucket, with the fields of S3's.
#[derive(Clone, Debug, Default)]
pub struct CorsRule {
    /// `AllowedOrigins`.
    pub origins: Vec<String>,
    /// `AllowedMethods`.
    pub methods: Vec<String>,
    /// `AllowedHeaders`, in lower case.
    pub headers: Vec<String>,
}

impl CorsRule {
    fn fits(&self, origin: &str, method: &str, headers: &str) -> bool {
        let names = headers.split(',').map(|name| name.trim().to_lowercase());
        let has = |all: &[String], it: &str| all.iter().any(|one| one == it || one == "*");
        has(&self.origins, origin)
            && self.methods.iter().any(|one| one == method)
            && names
                .filter(|name| !name.is_empty())
                .all(|name| has(&self.headers, &name))
    }
}

/// What is answered to a request of a browser: the headers that a rule gives, or none when no rule fits. The outer `None` is for
/// requests that are not of other origins.
pub(super) fn headers<B>(request: &Request<B>, rules: &[CorsRule]) -> Option<Option<HeaderMap>> {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|it| it.to_str().ok().map(str::to_owned))
    };
    let origin = text(ORIGIN)?;
    let asked = text(ACCESS_CONTROL_REQUEST_METHOD);
    let is_preflight = is_preflight(request);
    let method = asked.unwrap_or_else(|| request.method().to_string());
    let wanted = text(ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
    let rule = rules
        .iter()
        .find(|rule| rule.fits(&origin, &method, &wanted));
    Some(rule.map(|rule| {
        let is_any = rule.origins.iter().any(|one| one == "*");
        let origin = if is_any { "*" } else { &origin };
        let mut given = HeaderMap::new();
        given.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.parse().unwrap());
        let methods = rule.methods.join(", ");
        given.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.parse().unwrap());
        if is_preflight && !wanted.is_empty() {
            given.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.parse().unwrap());
        }
        given
    }))
}

/// Whether a browser asks if it may make a request.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    *request.method() == Method::OPTIONS
}
