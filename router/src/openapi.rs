//! The OpenAPI document: generated from the handlers and their types, so that it says what is served.
//!
//! The problems each operation can answer with are declared by the operation as one of the sets in `http::problem_sets`, and
//! spelled out from the table in [`crate::http::problem`].

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, SecurityRequirement,
    Server, ServerBuilder,
};
use utoipa_axum::router::OpenApiRouter;

use crate::http;
use crate::http::problem::{Code, ProblemDocument};

/// The document, whole.
#[must_use]
pub fn document() -> OpenApi {
    let chat = http::chat_routes()
        .into_iter()
        .fold(OpenApiRouter::new(), OpenApiRouter::routes);
    let mut document = frame();
    document.merge(OpenApiRouter::new().nest("/chat", chat).into_openapi());
    let mut operations = http::single_routes().into_openapi();
    for item in operations.paths.paths.values_mut() {
        item.servers = Some(vec![Server::new(".")]); // not under the other prefix
    }
    document.merge(operations);
    register::<ProblemDocument<'_>>(&mut document);
    document
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

/// The document as JSON.
#[must_use]
pub fn json() -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "the document is plain data with string keys; a test makes it"
    )]
    serde_json::to_vec(&document()).expect("plain data")
}

/// What the document says besides its operations. Its addresses are relative to the document's own, which a proxy may serve under
/// a path.
fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Backscroll")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description()))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ));
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("`sub` is the user's id; `exp` is required"));
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([
            ServerBuilder::new()
                .url(".")
                .description(Some("This server"))
                .build(),
            ServerBuilder::new()
                .url("./api")
                .description(Some("The same under another prefix"))
                .build(),
        ]))
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme("bearer", SecurityScheme::Http(bearer.build()))
                .build(),
        ))
        .security(Some([SecurityRequirement::new("bearer", [] as [&str; 0])]))
        .build()
}

fn description() -> String {
    let mut text = String::from(
        "Conversations as gapless numbered logs.\n\n\
         Every message has a `seq`, 1, 2, 3 … without a hole; every change takes the conversation's next `rev`. Ids are \
         strings, times are RFC 3339 in UTC with milliseconds. Fields that are not known are refused.\n\n\
         What is not a result is a problem (RFC 9457, `application/problem+json`). Its `code` is one of these:\n\n\
         | code | status | meaning |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        text.push_str(&format!(
            "| `{}` | {} | {} |\n",
            code.name(),
            code.status().as_u16(),
            code.meaning()
        ));
    }
    text.push_str(
        "\nAnswers to requests that are not HTTP, or whose headers are too large or too slow, have no body: 400, 431, or \
         the connection is closed.",
    );
    text
}

#[cfg(test)]
mod tests {
    use backscroll_shard::history::PAGE_MAX;
    use serde_json::Value;

    use crate::http::extract::LIST_MAX;

    #[test]
    fn documented_limits_of_pages_are_those_that_are_kept() {
        let document: Value = serde_json::from_slice(&super::json()).unwrap();
        let mut found = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            let parameters = item["get"]["parameters"].as_array();
            let limit = parameters
                .into_iter()
                .flatten()
                .find(|it| it["name"] == "limit");
            let Some(limit) = limit else { continue };
            let most = if path.ends_with("/messages") {
                PAGE_MAX
            } else {
                LIST_MAX
            };
            assert_eq!(limit["schema"]["maximum"], most, "{path}");
            found += 1;
        }
        assert_eq!(found, 10);
    }
}
