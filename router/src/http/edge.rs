//! What the gateway of sessions asks of this service: who a token is, and how an error is answered.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use backscroll_realtime::edge::{Edge, Identity};
use backscroll_realtime::protocol::{Close, Failure};
use backscroll_shard::error::Error;

use super::problem::{Code, Problem};
use crate::auth::{AuthError, Authenticator};

/// What the gateway asks of this service.
pub struct ServiceEdge(pub Arc<Authenticator>);

#[async_trait]
impl Edge for ServiceEdge {
    async fn authenticate(
        &self,
        token: &str,
        deadline: Instant,
    ) -> Result<Identity, (Close, Failure)> {
        match self.0.verify(token, deadline).await {
            Ok(identity) => Ok(Identity {
                user: identity.user,
                issued_at: identity.issued_at,
                expires_at: identity.expires_at,
                key: identity.key,
            }),
            Err(error) => {
                let close = match error {
                    AuthError::Missing => Close::Unauthenticated,
                    AuthError::Expired => Close::TokenExpired,
                    AuthError::Invalid(_) => Close::TokenInvalid,
                    AuthError::KeysUnavailable => Close::Internal,
                    AuthError::Sanctioned(ref sanctioned) => Close::of(sanctioned),
                };
                Err((close, failure(&Problem::from(error))))
            }
        }
    }

    fn trusts(&self, key: NonZeroU64) -> bool {
        self.0.trusts(key)
    }

    fn failure(&self, error: Error) -> Failure {
        let problem = Problem::from(error);
        if let Some(cause) = problem.cause() {
            match problem.code() {
                Code::Internal => tracing::error!(cause, "command failed"),
                _ => tracing::debug!(cause, "command could not be done"),
            }
        }
        failure(&problem)
    }
}

fn failure(problem: &Problem) -> Failure {
    Failure {
        code: problem.code().name(),
        message: problem.detail(),
        retry_after_ms: problem.retry_after_ms(),
        rule: problem.rule(),
    }
}
