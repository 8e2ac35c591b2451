//! Which problems an operation can answer with. Each type is a set that operations name in their `responses`; the OpenAPI
//! document spells it out from the table in [`super::problem`].

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema as _};

use super::problem::Code::{self, *};
use super::problem::PROBLEM_JSON;

/// Any operation of a caller: tokens, bounds, and what it depends on.
const CALLER: &[Code] = &[
    InvalidRequest,
    Unauthenticated,
    TokenExpired,
    TokenInvalid,
    Suspended,
    Banned,
    Internal,
    Overloaded,
    ShardUnavailable,
    DirectoryUnavailable,
    AuthUnavailable,
    ShuttingDown,
    DeadlineExceeded,
];
/// With a body.
const BODY: &[Code] = &[RequestTimeout, BodyTooLarge, UnsupportedMediaType];
/// On a conversation.
const MEMBER: &[Code] = &[NotAMember];
/// On what others see.
const SPEECH: &[Code] = &[Muted];
/// Where roles or authorship matter.
const ROLE: &[Code] = &[Forbidden];
/// Between users of whom one may block the other.
const ACCEPTED: &[Code] = &[NotAccepted];
/// Where there is a limit on how many.
const COUNTED: &[Code] = &[LimitReached];
/// On a message or a member.
const THING: &[Code] = &[NotFound];
/// Where the conversation's state matters.
const STATE: &[Code] = &[Conflict, LimitReached];
/// With an idempotency key.
const IDEMPOTENT: &[Code] = &[ConflictIdempotency];
/// Where the object store is asked.
const OBJECTS: &[Code] = &[ObjectStoreUnavailable];
/// Where a file is declared.
const DECLARED: &[Code] = &[MediaTooLarge, MediaTypeNotAllowed, LimitReached];
/// Where a file must have been uploaded.
const UPLOADED: &[Code] = &[MediaNotUploaded, ScannerUnavailable];
/// Where a file must be ready.
const READY: &[Code] = &[MediaNotReady];
/// Where a file must not be used.
const UNUSED: &[Code] = &[MediaInUse];
/// Where a rate limit holds.
const LIMITED: &[Code] = &[RateLimited];
/// On messages, which may be archived.
const ARCHIVE: &[Code] = &[ArchiveUnavailable, ArchiveDamaged];

macro_rules! sets {
    ($($(#[doc = $doc:literal])+ $name:ident = $($group:ident)+;)+) => {
        $($(#[doc = $doc])+
        pub(super) struct $name;
        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                responses(&[$($group),+].concat())
            }
        })+
    };
}

sets! {
    /// Reading what is one's own.
    Own = CALLER;
    /// Changing one's own thing.
    OwnThing = CALLER THING;
    /// What only administrators may.
    Administer = CALLER BODY ROLE;
    /// Reading what only administrators may.
    ReadStaff = CALLER ROLE;
    /// Resolving a report.
    Resolve = CALLER BODY ROLE THING STATE;
    /// Lifting sanctions.
    Lift = CALLER ROLE THING;
    /// Imposing a sanction.
    Sanction = CALLER BODY ROLE STATE;
    /// The same, asked for with a body.
    OwnBody = CALLER BODY MEMBER ARCHIVE;
    /// Starting a conversation.
    Create = CALLER BODY SPEECH MEMBER STATE IDEMPOTENT LIMITED ACCEPTED;
    /// Blocking a user.
    Block = CALLER COUNTED;
    /// Reading a conversation.
    Read = CALLER MEMBER;
    /// Reading its history.
    ReadArchived = CALLER MEMBER ARCHIVE;
    /// Searching what one may read.
    Search = CALLER MEMBER ARCHIVE;
    /// Reading a message.
    ReadMessage = CALLER MEMBER THING ARCHIVE;
    /// Reading who received a message.
    Receipts = CALLER MEMBER THING STATE ARCHIVE;
    /// Moving one's watermark.
    Mark = CALLER BODY MEMBER;
    /// Changing a conversation.
    Write = CALLER BODY SPEECH MEMBER ROLE STATE;
    /// Adding members to it.
    Add = CALLER BODY SPEECH MEMBER ROLE STATE LIMITED ACCEPTED;
    /// Changing a member of it.
    WriteTo = CALLER BODY MEMBER ROLE THING STATE;
    /// Deleting a conversation.
    Remove = CALLER MEMBER ROLE STATE;
    /// Removing a member of it.
    RemoveFrom = CALLER MEMBER ROLE THING STATE;
    /// Sending a message.
    Send = CALLER BODY SPEECH MEMBER ROLE THING STATE READY IDEMPOTENT ARCHIVE LIMITED ACCEPTED;
    /// Beginning to upload a file.
    BeginMedia = CALLER BODY SPEECH MEMBER DECLARED OBJECTS;
    /// Going on with an upload.
    OwnMedia = CALLER MEMBER ROLE THING OBJECTS;
    /// Completing an upload.
    CompleteMedia = CALLER MEMBER ROLE THING UPLOADED OBJECTS;
    /// Reading a file.
    ReadMedia = CALLER MEMBER THING READY OBJECTS;
    /// Reading what is known of a thing in a conversation.
    ReadConversationThing = CALLER MEMBER THING;
    /// Giving up a file.
    DeleteMedia = CALLER MEMBER ROLE THING UNUSED;
    /// Reporting a message.
    Report = CALLER BODY MEMBER THING STATE ARCHIVE LIMITED;
    /// Changing a message.
    WriteMessage = CALLER BODY SPEECH MEMBER ROLE THING STATE ARCHIVE ACCEPTED;
    /// Changing a message without a body.
    TouchMessage = CALLER MEMBER ROLE THING STATE ARCHIVE;
    /// Reacting to a message.
    React = CALLER SPEECH MEMBER ROLE THING STATE ARCHIVE ACCEPTED;
}

/// One response a status, with an example a code.
fn responses(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for &code in codes {
        by_status
            .entry(code.status().as_u16())
            .or_default()
            .push(code);
    }
    by_status
        .into_iter()
        .map(|(status, codes)| (status.to_string(), RefOr::T(response(&codes))))
        .collect()
}

fn response(codes: &[Code]) -> Response {
    let meanings: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.name(), code.meaning()))
        .collect();
    let examples = codes.iter().map(|code| {
        (
            code.name(),
            ExampleBuilder::new()
                .summary(code.title())
                .value(Some(example(*code)))
                .build(),
        )
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples)
        .build();
    let mut response = ResponseBuilder::new()
        .description(meanings.join("\n\n"))
        .content(PROBLEM_JSON, content);
    if codes.iter().any(|code| code.retry_after_ms().is_some()) {
        let seconds = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0));
        response = response.header(
            "Retry-After",
            HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("Seconds to wait before trying again"))
                .build(),
        );
    }
    if codes.contains(&RateLimited) {
        for (name, description) in [
            (
                "RateLimit-Policy",
                "The limit that refused the request: its name, how many it allows at once (`q`), in how many seconds (`w`)",
            ),
            (
                "RateLimit",
                "What is left of it (`r`), and after how many seconds there is more (`t`)",
            ),
        ] {
            let header = HeaderBuilder::new()
                .schema(Some(String::schema()))
                .description(Some(description));
            response = response.header(name, header.build());
        }
    }
    if codes.contains(&Unauthenticated) {
        response = response.header(
            "WWW-Authenticate",
            HeaderBuilder::new()
                .schema(Some(String::schema()))
                .description(Some("`Bearer`, and what is wrong with the token"))
                .build(),
        );
    }
    response.build()
}

fn example(code: Code) -> serde_json::Value {
    let mut example = json!({
        "type": code.type_uri(),
        "title": code.title(),
        "status": code.status().as_u16(),
        "code": code.name(),
        "detail": code.meaning(),
        "requestId": "9b2f6c1d40e8a735",
    });
    if let Some(wait) = code.retry_after_ms() {
        example["retryAfterMs"] = json!(wait);
    }
    example
}
