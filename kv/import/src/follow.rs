//! Repeats the source's changes on the target until told to stop.
//!
//! Must hold: the watch starts right after the position on the target, each time it is opened, so nothing is missed and nothing is
//! applied twice. When told to stop, everything that the source had at that moment is on the target before this returns.
//!
//! A watch of a prefix stays silent while other keys change, so it can't tell that everything up to some revision has been received.
//! For the last stretch all keys are watched instead, of which every revision changes one. Where that isn't allowed, or doesn't get there,
//! both sides are compared at that revision.

use std::{future::Future, pin::pin, time::Duration};

use etcd_proto::etcdserverpb as pb;
use futures::{FutureExt as _, future::FusedFuture};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status};

use crate::{
    ImportError, Options, Position, Progress, Role, Side, SourceRevision,
    assemble::{Assembler, merge},
    change::KeyRange,
    copy::{copy_all, start_over, sweep_at},
    options::Report,
    record::Stage,
    restore::restore_lost,
    session::{Purpose, Session},
    side::Outage,
    writer::Writer,
};

/// Time between two looks at the source's revision, each of which is reported.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last stretch may stand still before both sides are compared instead.
const STANDSTILL_MAX: Duration = Duration::from_secs(10);

/// Applies the source's changes after `from`, each revision as one transaction, until `stop` is ready and everything up to the source's
/// revision at that moment is applied.
///
/// Revisions with more changes than a transaction may carry are split into several, in order. Dropping the future interrupts it at any
/// point without harm: [`copy`](crate::copy) then tells where it was. For the switch, stop the source's writers before `stop`.
pub async fn follow(
    source: &Side,
    target: &Side,
    options: &Options,
    from: Position,
    stop: impl Future<Output = ()> + Send,
    report: Report<'_>,
) -> Result<Position, ImportError> {
    let session = Session::new(source, target, options, report);
    let writer = session.claim(Purpose::Follow { from }).await?;
    let mut follower = Follower {
        session: &session,
        writer,
        goal: None,
        outage: Outage::new(Role::Source, "send changes", session.source.retries().clone()),
    };
    session.keeping_leases(follower.run(pin!(stop.fuse()))).await
}

struct Follower<'a> {
    session: &'a Session<'a>,
    writer: Writer,
    goal: Option<Goal>,
    outage: Outage,
}

/// Where to stop.
struct Goal {
    revision: SourceRevision,
    /// Changes applied without their lease before the goal was set.
    applied_without_lease: u64,
    /// When the position last moved, and where it was.
    moved: (Instant, SourceRevision),
}

/// Why a watch isn't listened to any more.
enum Ended {
    /// It failed, perhaps for passing reasons.
    Failed(Status),
    /// The source has compacted the revision after the position.
    Compacted,
    /// The source doesn't allow it.
    Canceled(String),
    /// The goal is in sight and needs another watch, or is reached.
    Goal,
}

impl Follower<'_> {
    async fn run(&mut self, mut stop: impl FusedFuture<Output = ()> + Unpin) -> Result<Position, ImportError> {
        loop {
            if let Some(position) = self.arrive().await? {
                return Ok(position);
            }
            let everything = self.goal.is_some() || self.session.options.prefix.is_empty();
            let ended = match Box::pin(self.attend(everything, &mut stop)).await {
                Err(error) if error.source_compacted() => Ended::Compacted,
                ended => ended?,
            };
            match ended {
                Ended::Goal => {}
                Ended::Compacted => {
                    let compacted = self.applied();
                    start_over(self.session, &mut self.writer, compacted).await?;
                    copy_all(self.session, &mut self.writer).await?;
                }
                Ended::Canceled(_) if self.goal.is_some() => self.compare_at_goal().await?,
                Ended::Canceled(reason) => return Err(ImportError::WatchCanceled { reason }),
                Ended::Failed(status) if self.goal.is_some() && status.code() == Code::PermissionDenied => {
                    self.compare_at_goal().await?;
                }
                Ended::Failed(status) => self.outage.wait(status).await?,
            }
        }
    }

    /// Listens to one watch, and applies what it sends.
    async fn attend(
        &mut self,
        everything: bool,
        mut stop: impl FusedFuture<Output = ()> + Unpin,
    ) -> Result<Ended, ImportError> {
        let Stage::Following { revision, part } = *self.writer.stage() else { return Err(ImportError::NotCopied) };
        let Options { prefix, position_key, .. } = self.session.options;
        let mut assembler = Assembler::new(prefix.clone(), position_key.clone(), self.writer.limits(), revision, part);
        let KeyRange { start, end } = if everything { KeyRange::all() } else { self.session.keys() };
        let create = pb::WatchCreateRequest {
            key: start,
            range_end: end,
            start_revision: revision.next().get(),
            progress_notify: true,
            fragment: true,
            ..Default::default()
        };
        // The sender is held: a source ends the watch when no more requests can come.
        let (_open, mut answers) = match self.session.source.watch(create).await {
            Ok(opened) => opened,
            Err(status) => return Ok(Ended::Failed(status)),
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        self.outage.over();
                        if let Some(ended) = self.take(&mut assembler, answer).await? {
                            return Ok(ended);
                        }
                    }
                    Ok(None) => return Ok(Ended::Failed(Status::unavailable("the source closed the watch"))),
                    Err(status) => return Ok(Ended::Failed(status)),
                },
                () = &mut stop, if !stop.is_terminated() => {
                    self.set_goal().await?;
                    if !everything {
                        self.note(&assembler).await?;
                        return Ok(Ended::Goal);
                    }
                }
                _ = look.tick() => {
                    restore_lost(&self.session.source, &self.session.leases, &self.writer, self.session.options).await?;
                    self.note(&assembler).await?;
                    self.tell(assembler.done()).await?;
                    if self.stands_still(assembler.done()) {
                        return Ok(Ended::Canceled("standstill".to_owned()));
                    }
                }
            }
            if self.goal.as_ref().is_some_and(|goal| assembler.done() >= goal.revision) {
                self.note(&assembler).await?;
                return Ok(Ended::Goal);
            }
        }
    }

    async fn take(
        &mut self,
        assembler: &mut Assembler,
        answer: pb::WatchResponse,
    ) -> Result<Option<Ended>, ImportError> {
        if answer.canceled {
            return Ok(Some(if answer.compact_revision > 0 {
                Ended::Compacted
            } else {
                Ended::Canceled(answer.cancel_reason)
            }));
        }
        // The answer that says that the watch is there tells a revision whose events may be yet to come.
        if answer.created {
            return Ok(None);
        }
        if answer.events.is_empty() {
            if let Some(header) = answer.header {
                assembler.advance(SourceRevision::new(header.revision));
            }
            return Ok(None);
        }
        let steps = assembler.take(answer.events, answer.fragment);
        for step in merge(steps, self.session.options.merge_revisions_max.max(1), self.writer.limits()) {
            restore_lost(&self.session.source, &self.session.leases, &self.writer, self.session.options).await?;
            let stage = step.stage();
            self.writer.commit(&self.session.leases, &step.batch.into_changes(), stage).await?;
        }
        Ok(None)
    }

    /// Writes down that revisions of other keys have passed, so that a restart doesn't ask for them.
    async fn note(&mut self, assembler: &Assembler) -> Result<(), ImportError> {
        if assembler.done() <= self.applied() {
            return Ok(());
        }
        self.writer.commit(&self.session.leases, &[], Stage::Following { revision: assembler.done(), part: 0 }).await
    }

    async fn set_goal(&mut self) -> Result<(), ImportError> {
        let applied_without_lease = self.session.leases.applied_without();
        let revision = SourceRevision::new(self.session.source.header(&self.session.keys().start).await?.revision);
        (self.session.report)(Progress::Switching { until: revision });
        self.goal = Some(Goal { revision, applied_without_lease, moved: (Instant::now(), self.applied()) });
        Ok(())
    }

    /// The position, if it is where it was to be.
    async fn arrive(&mut self) -> Result<Option<Position>, ImportError> {
        let Some(goal) = &self.goal else { return Ok(None) };
        let (revision, before) = (goal.revision, goal.applied_without_lease);
        let Some(position) = self.writer.position().filter(|position| position.source >= revision) else {
            return Ok(None);
        };
        // A key whose lease had ended by the time it was applied would stay for good: its deletion is awaited too.
        if self.session.leases.applied_without() == before {
            return Ok(Some(position));
        }
        self.set_goal().await?;
        Ok(None)
    }

    fn stands_still(&mut self, done: SourceRevision) -> bool {
        let Some(goal) = &mut self.goal else { return false };
        let (since, at) = goal.moved;
        if done > at {
            goal.moved = (Instant::now(), done);
        }
        done <= at && since.elapsed() >= STANDSTILL_MAX
    }

    async fn compare_at_goal(&mut self) -> Result<(), ImportError> {
        let revision = self.goal.as_ref().map_or(SourceRevision::default(), |goal| goal.revision);
        sweep_at(self.session, &mut self.writer, revision).await?;
        copy_all(self.session, &mut self.writer).await.map(drop)
    }

    async fn tell(&self, applied: SourceRevision) -> Result<(), ImportError> {
        let source = SourceRevision::new(self.session.source.header(&self.session.keys().start).await?.revision);
        let behind = u64::try_from(source.get() - applied.get()).unwrap_or(0);
        (self.session.report)(Progress::Following { source_revision: source, applied_revision: applied, behind });
        Ok(())
    }

    fn applied(&self) -> SourceRevision {
        self.writer.position().map_or(SourceRevision::default(), |position| position.source)
    }
}
