//! Reporting messages; archived ones too.

use super::Store;
use crate::error::Result;
use crate::guard::Action;
use crate::ids::MessageId;
use crate::model::Caller;
use crate::reports::{NewReport, Report};

impl Store {
    /// Reports a message that the caller may read to the moderators, with what it says now; says whether the report is new. Reporting
    /// it again gives the first report.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::error::Error::Invalid), also of one's own message; [`Error::Conflict`](crate::error::Error::Conflict)
    /// for a deleted one; [`Error::LimitReached`](crate::error::Error::LimitReached) with 100 open reports;
    /// [`Error::RateLimited`](crate::error::Error::RateLimited); [`Error::DirectoryUnavailable`](crate::error::Error::DirectoryUnavailable);
    /// and as [`Store::message`].
    pub async fn report(
        &self,
        caller: &Caller,
        id: MessageId,
        new: &NewReport,
    ) -> Result<(Report, bool)> {
        let message = self.message(caller, id).await?;
        let reported = match self.act(Action::Report, caller).await {
            Ok(charge) => {
                let added = self.reports.add(&caller.user, &message, new).await;
                charge.settle(&added, |(_, is_new)| *is_new);
                added?
            }
            Err(refusal) => {
                let found = self.reports.find(&caller.user, id).await?;
                (found.ok_or(refusal)?, false)
            }
        };
        Ok(reported)
    }
}
