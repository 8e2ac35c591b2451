//! The body of a problem (RFC 9457).

use serde::Serialize;
use utoipa::ToSchema;

use super::Code;

/// The body of every answer that is not a result.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Names the kind of problem, as `code` does, as a URI.
    #[serde(rename = "type")]
    #[schema(example = "urn:problem-type:backscroll:not_a_member")]
    pub type_uri: &'a str,
    /// The kind of problem in words, always the same for a `code`.
    pub title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// The kind of problem, for programs.
    pub code: Code,
    /// What happened this time, in words that may change.
    pub detail: &'a str,
    /// Quote it when you report the problem; also in the header `x-request-id`.
    pub request_id: &'a str,
    /// When the same request may succeed, in milliseconds from now. Absent when it has to change first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub retry_after_ms: Option<u64>,
    /// The rate limit that refused the request: its name in the configuration's section `guard`. Only with the code `rate_limited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "messages")]
    pub rule: Option<&'a str>,
}
