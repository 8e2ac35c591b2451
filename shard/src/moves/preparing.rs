//! Before the copy: how much it will be, and whether the target has room for it.

use std::time::Duration;

use super::balance::{PlanOptions, weigh};
use super::run::Runner;
use super::{Move, MoveState, brakes, figures};
use crate::error::Result;

/// How often it is looked whether there is room now.
const AGAIN: Duration = Duration::from_millis(500);

impl Runner<'_> {
    /// Weighs the range, puts that down, and waits until the target has room for it. `false` when the move is in another state
    /// meanwhile.
    ///
    /// # Errors
    /// When a database fails.
    pub(super) async fn prepare(&self, job: &Move) -> Result<bool> {
        let sides = self.sides(job, None)?;
        let expected = match (job.expected_rows, job.expected_bytes) {
            (Some(rows), Some(bytes)) => (rows, bytes),
            _ => {
                let mut source = sides.source.reader(sides.deadline()).await?;
                let counted = PlanOptions::default().counted;
                let total = weigh(&mut source, job.range, counted).await?.total();
                drop(source);
                let expected = (total.rows, total.bytes);
                sides
                    .in_directory(async |it| figures::expect(it, job.id, expected).await)
                    .await?;
                expected
            }
        };
        loop {
            if !self.may_go_on(job, MoveState::Copying).await? {
                return Ok(false);
            }
            let Some(reason) = brakes::room(&sides, expected.1).await? else {
                self.tell(job, None).await?;
                return Ok(true);
            };
            self.tell(job, Some(reason)).await?;
            tokio::time::sleep(AGAIN).await;
        }
    }
}
