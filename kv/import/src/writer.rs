//! Writes changes and position to the target, each transaction exactly once.
//!
//! Must hold: every transaction compares the position with the one before it. One whose answer got lost is simply sent again: where it
//! had happened, the comparison fails and the position found is the one it was to lead to. A position of anybody else's ends the import.

use bytes::Bytes;
use etcd_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Operation,
    response_op::Response as Answer,
};

use crate::{
    ImportError, LeaseId, Position, Role, TargetRevision,
    change::{Change, TxnLimits},
    leases::Leases,
    record::{Record, Stage},
    side::Peer,
};

/// How often a transaction may find that a lease has just ended on the target.
const LEASE_ATTEMPTS: usize = 5;

pub(crate) struct Writer {
    target: Peer,
    position_key: Bytes,
    limits: TxnLimits,
    record: Record,
    /// The target's revision that wrote the record.
    written_at: TargetRevision,
}

/// What a conditional transaction came to.
enum Outcome {
    Done(TargetRevision),
    /// The comparison failed: this is there instead, written at that revision.
    Other(Bytes, TargetRevision),
}

impl Writer {
    /// Takes the position over from whoever wrote what was found (nothing: revision zero).
    pub(crate) async fn claim(
        target: &Peer,
        position_key: &Bytes,
        limits: TxnLimits,
        found_at: i64,
        record: Record,
    ) -> Result<Self, ImportError> {
        let mut writer = Self {
            target: target.clone(),
            position_key: position_key.clone(),
            limits,
            record,
            written_at: TargetRevision::new(0),
        };
        let compare = writer.compare(CompareTarget::Mod, TargetUnion::ModRevision(found_at));
        let next = writer.record.encode();
        writer.written_at = writer.decide(compare, Vec::new(), Some(next)).await?;
        Ok(writer)
    }

    pub(crate) fn stage(&self) -> &Stage {
        &self.record.stage
    }

    pub(crate) fn limits(&self) -> TxnLimits {
        self.limits
    }

    /// Where the target is, once it is following.
    pub(crate) fn position(&self) -> Option<Position> {
        match self.record.stage {
            Stage::Following { revision, .. } => Some(Position { source: revision, target: self.written_at }),
            Stage::Copying { .. } => None,
        }
    }

    /// Applies changes and moves the position, at once.
    pub(crate) async fn commit(&mut self, leases: &Leases, changes: &[Change], next: Stage) -> Result<(), ImportError> {
        let record = Record { stage: next, ..self.record.clone() };
        if changes.is_empty() && record == self.record {
            return Ok(());
        }
        self.written_at = self.apply(leases, changes, Some(record.encode())).await?;
        self.record = record;
        Ok(())
    }

    /// Applies changes that the present position allows to be applied any number of times, and leaves it as it is.
    pub(crate) async fn write_beside(&self, leases: &Leases, changes: &[Change]) -> Result<(), ImportError> {
        if !changes.is_empty() {
            self.apply(leases, changes, None).await?;
        }
        Ok(())
    }

    async fn apply(
        &self,
        leases: &Leases,
        changes: &[Change],
        next: Option<Bytes>,
    ) -> Result<TargetRevision, ImportError> {
        let mut attempt = 1;
        loop {
            let mut operations = Vec::with_capacity(changes.len() + 1);
            for change in changes {
                let lease = match change.lease() {
                    Some(lease) => leases.ensure(lease).await?,
                    None => None,
                };
                operations.push(change.operation(lease));
            }
            let compare = self.compare(CompareTarget::Value, TargetUnion::Value(self.record.encode()));
            match self.decide(compare, operations, next.clone()).await {
                Err(error) if error.lease_missing() && attempt < LEASE_ATTEMPTS => {
                    changes.iter().filter_map(Change::lease).for_each(|lease: LeaseId| leases.lose(lease));
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends a transaction, and finds out whether it happened if the comparison fails.
    async fn decide(
        &self,
        compare: pb::Compare,
        mut operations: Vec<pb::RequestOp>,
        next: Option<Bytes>,
    ) -> Result<TargetRevision, ImportError> {
        if let Some(value) = next.clone() {
            operations.push(operation(Operation::RequestPut(pb::PutRequest {
                key: self.position_key.clone(),
                value,
                ..Default::default()
            })));
        }
        let look = operation(Operation::RequestRange(pb::RangeRequest {
            key: self.position_key.clone(),
            ..Default::default()
        }));
        let txn = pb::TxnRequest { compare: vec![compare], success: operations, failure: vec![look] };
        match self.outcome(self.target.txn("apply changes", txn).await?)? {
            Outcome::Done(revision) => Ok(revision),
            Outcome::Other(found, revision) if next == Some(found.clone()) => Ok(revision),
            Outcome::Other(..) => Err(ImportError::Superseded),
        }
    }

    fn outcome(&self, answer: pb::TxnResponse) -> Result<Outcome, ImportError> {
        let malformed = |missing| ImportError::Malformed { side: Role::Target, doing: "apply changes", missing };
        if answer.succeeded {
            let header = answer.header.ok_or_else(|| malformed("a header"))?;
            return Ok(Outcome::Done(TargetRevision::new(header.revision)));
        }
        let Some(Answer::ResponseRange(range)) = answer.responses.into_iter().next().and_then(|answer| answer.response)
        else {
            return Err(malformed("the position"));
        };
        let pair = range.kvs.into_iter().next().unwrap_or_default();
        Ok(Outcome::Other(pair.value, TargetRevision::new(pair.mod_revision)))
    }

    fn compare(&self, target: CompareTarget, to: TargetUnion) -> pb::Compare {
        pb::Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: self.position_key.clone(),
            target_union: Some(to),
            ..Default::default()
        }
    }
}

fn operation(request: Operation) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
