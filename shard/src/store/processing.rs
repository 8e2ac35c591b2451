//! Pictures of which smaller forms are made: taken from the queue, and given back with what came of it.
//!
//! The pixels are the caller's business. Messages have a copy of what is known of their files; those that were sent while a
//! picture was processed are told afterwards, each by a change of its own, so that all members see it (INV-REV). What a crash
//! leaves is taken again when the lease ends ([`crate::media::processing`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::changes::Touched;
use super::{By, Store};
use crate::commit_event::CommitEvent;
use crate::error::{Error, Result};
use crate::ids::{MessageId, Seq};
use crate::map::Assignment;
use crate::media;
use crate::media::processing::{self, LEASE};
use crate::message::attachments;
use crate::model::{Media, MediaInfo, MediaProcessed, VariantKeys};
use crate::node::Shard;
use crate::owned::{OwnedTransaction, WriteScope};

/// How long one step may take, retries included.
const STEP: Duration = Duration::from_secs(10);

/// Messages that are looked up at once.
const PAGE: usize = 100;

impl Store {
    /// Takes up to `limit` pictures of a shard that are to be processed and nobody works on. Each is the caller's for [`LEASE`].
    ///
    /// # Errors
    /// When the shard cannot be asked.
    pub async fn take_due_media(&self, shard: &Shard, limit: usize) -> Result<Vec<Media>> {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let due = processing::due(&mut connection, limit).await?;
        drop(connection);
        let (map, mut taken) = (self.map(), Vec::new());
        for media in due {
            // Rows of a range that has moved away are not this shard's any more.
            if map.locate(media.conversation.owner_key()).shard == *shard.name() {
                taken.extend(self.step(&media, Step::Take).await?);
            }
        }
        Ok(taken)
    }

    /// Takes a picture that has neither forms nor a placeholder, because its processing has failed or never began, to process it
    /// again; `keys` are for one that has none. `None` when it is not such a picture any more, or another process works on it.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn process_again(&self, media: &Media, keys: &VariantKeys) -> Result<Option<Media>> {
        let deadline = Instant::now() + STEP;
        let id = (media.conversation, media.id);
        let restart = |shard: Arc<Shard>, assignment: Assignment| async move {
            let transaction = |mut rows: OwnedTransaction<'static>| async move {
                match processing::restart(&mut rows, id, keys).await? {
                    true => media::lock(&mut rows, id.0, id.1).await.map(Some),
                    false => Ok(None),
                }
            };
            let scope = WriteScope::conversation(&assignment, id.0);
            shard.write(&scope, deadline, transaction).await
        };
        let key = media.conversation.owner_key();
        self.router.call(key, deadline, restart).await
    }

    /// Puts down what came of a picture that the caller has taken. `None` when it is not the caller's any more: it was removed,
    /// or its lease has ended. [`Store::tell_processed`] follows.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub async fn finish_processing(
        &self,
        media: &Media,
        processed: &MediaProcessed,
    ) -> Result<Option<Media>> {
        self.step(media, Step::Finish(processed)).await
    }

    /// Tells of a picture that was processed: first the messages that use it, then its uploader; after that nothing is to be
    /// done with it any more.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`], [`Error::ArchiveUnavailable`]; then it is to be done again.
    pub async fn tell_processed(&self, media: &Media) -> Result<()> {
        let mut after = Seq(0);
        loop {
            // What is sent from now on has what the row says.
            let page = self.uses_of(media, after).await?;
            let Some(last) = page.last() else { break };
            after = *last;
            for seq in page {
                let conversation = media.conversation;
                let told = self.refresh_attachments(MessageId { conversation, seq }, media);
                match told.await {
                    // It is gone, or nobody can read it: nobody has to be told.
                    Ok(())
                    | Err(Error::NotFound(_) | Error::NotMember | Error::ArchiveDamaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if self.step(media, Step::End).await?.is_some() {
            let event = CommitEvent::MediaProcessed {
                user: media.uploader.clone(),
                media: MediaInfo::from(media.clone()),
            };
            self.listener.committed(vec![event]);
        }
        Ok(())
    }

    /// Gives a picture back, to be taken again after `pause`.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`]; then it is taken again when the lease ends.
    pub async fn postpone_processing(&self, media: &Media, pause: Duration) -> Result<()> {
        self.step(media, Step::Postpone(pause)).await.map(drop)
    }

    async fn uses_of(&self, media: &Media, after: Seq) -> Result<Vec<Seq>> {
        let deadline = Instant::now() + STEP;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            processing::uses(&mut rows, media, after, PAGE).await
        };
        let key = media.conversation.owner_key();
        self.router.call(key, deadline, read).await
    }

    async fn refresh_attachments(&self, id: MessageId, media: &Media) -> Result<()> {
        let by = By::Server(Instant::now() + STEP);
        self.change_message(by, id, |change, message| {
            let given = message.attachments.as_deref();
            let Some(filled) = given.map(|it| attachments::refill(it, media)).transpose()? else {
                return Ok(Touched::Unchanged);
            };
            if given == Some(&filled) {
                return Ok(Touched::Unchanged);
            }
            message.attachments = Some(filled);
            message.rev = change.head.next_rev();
            Ok(Touched::Updated)
        })
        .await
        .map(drop)
    }

    /// Takes a step in a transaction, if the lease that `media` has is the one in its row; gives the row as it is then.
    async fn step(&self, media: &Media, step: Step<'_>) -> Result<Option<Media>> {
        let deadline = Instant::now() + STEP;
        let change = |shard: Arc<Shard>, assignment: Assignment| async move {
            let transaction = |mut rows: OwnedTransaction<'static>| async move {
                let Some(current) = processing::held(&mut rows, media).await? else {
                    return Ok(None);
                };
                let id = (current.conversation, current.id);
                match step {
                    Step::Take => processing::again_after(&mut rows, id, Some(LEASE)).await?,
                    Step::Finish(processed) => {
                        processing::finish(&mut rows, &current, processed).await?;
                    }
                    Step::End => processing::again_after(&mut rows, id, None).await?,
                    Step::Postpone(pause) => {
                        processing::again_after(&mut rows, id, Some(pause)).await?;
                    }
                }
                media::lock(&mut rows, id.0, id.1).await.map(Some)
            };
            let scope = WriteScope::conversation(&assignment, media.conversation);
            shard.write(&scope, deadline, transaction).await
        };
        let key = media.conversation.owner_key();
        self.router.call(key, deadline, change).await
    }
}

/// What is done with a picture that its caller has taken, or takes.
#[derive(Clone, Copy)]
enum Step<'a> {
    Take,
    Finish(&'a MediaProcessed),
    End,
    Postpone(Duration),
}
