//! What the calls of an import share: both sides, the leases, and the right to write.

use std::future::Future;

use bytes::Bytes;
use etcd_proto::{
    etcdserverpb::{self as pb, request_op::Request as Operation},
    mvccpb::KeyValue,
};

use crate::{
    ImportError, Options, Position, Role, Side, SourceRevision,
    change::{KeyRange, TxnLimits},
    leases::Leases,
    options::Report,
    record::{Record, Stage},
    retry,
    side::Peer,
    writer::Writer,
};

/// How often the position may change between a look at it and the claim to it. Only another import that runs changes it more often.
const CLAIM_ATTEMPTS: usize = 10;

/// One run of an import.
pub(crate) struct Session<'a> {
    pub(crate) source: Peer,
    pub(crate) target: Peer,
    pub(crate) leases: Leases,
    pub(crate) options: &'a Options,
    pub(crate) report: Report<'a>,
}

/// What a run is to do with the target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Begin a copy, or go on with whatever an earlier run has left.
    Copy,
    /// Follow from where the caller believes the target to be.
    Follow { from: Position },
}

/// What the target says about earlier runs.
struct Found {
    /// Nothing, or somebody else's under permission to overwrite.
    record: Option<Record>,
    written_at: i64,
    source: u64,
}

impl<'a> Session<'a> {
    pub(crate) fn new(source: &Side, target: &Side, options: &'a Options, report: Report<'a>) -> Self {
        let source = Peer::new(Role::Source, source, options);
        let target = Peer::new(Role::Target, target, options);
        let leases = Leases::new(&source, &target, options);
        Self { source, target, leases, options, report }
    }

    /// The keys to import.
    pub(crate) fn keys(&self) -> KeyRange {
        KeyRange::of_prefix(&self.options.prefix)
    }

    /// Does some work while the leases are kept alive.
    pub(crate) async fn keeping_leases<T>(
        &self,
        work: impl Future<Output = Result<T, ImportError>>,
    ) -> Result<T, ImportError> {
        tokio::select! {
            done = work => done,
            ended = self.leases.keep(self.report) => match ended? {},
        }
    }

    async fn find(&self) -> Result<Found, ImportError> {
        let source = self.source.header(&self.keys().start).await?.cluster_id;
        let key = &self.options.position_key;
        let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let pair = self.target.range("tell the position", range).await?.kvs.into_iter().next();
        let Some(KeyValue { value, mod_revision: written_at, .. }) = pair else {
            return Ok(Found { record: None, written_at: 0, source });
        };
        let checked = match Record::parse(&value) {
            None => Err(ImportError::BadPosition { key: key.clone() }),
            Some(record) if record.source != source => Err(ImportError::OtherImport { what: "source" }),
            Some(record) if record.prefix != self.options.prefix => Err(ImportError::OtherImport { what: "prefix" }),
            Some(record) => Ok(record),
        };
        match checked {
            Err(_) if self.options.overwrite => Ok(Found { record: None, written_at, source }),
            checked => Ok(Found { record: Some(checked?), written_at, source }),
        }
    }

    /// Takes the position over from an earlier run, or begins an import if the target is fit for it.
    pub(crate) async fn claim(&self, purpose: Purpose) -> Result<Writer, ImportError> {
        let limits = TxnLimits::of(self.options)?;
        let Options { position_key, prefix, .. } = self.options;
        let mut attempt = 1;
        loop {
            let found = self.find().await?;
            let stage = self.decide(purpose, &found).await?;
            let record = Record { session: retry::random(), source: found.source, prefix: prefix.clone(), stage };
            match Writer::claim(&self.target, position_key, limits, found.written_at, record).await {
                // The last transaction of a run that was killed may arrive after we looked; none of it can once the claim is there.
                Err(ImportError::Superseded) if attempt < CLAIM_ATTEMPTS => attempt += 1,
                claimed => {
                    let writer = claimed?;
                    if found.record.is_some() {
                        self.leases.adopt().await?;
                    }
                    return Ok(writer);
                }
            }
        }
    }

    /// The stage at which to go on.
    async fn decide(&self, purpose: Purpose, found: &Found) -> Result<Stage, ImportError> {
        let stage = found.record.as_ref().map(|record| &record.stage);
        match (purpose, stage) {
            (Purpose::Copy, Some(stage)) => Ok(stage.clone()),
            (Purpose::Copy, None) => {
                if !self.options.overwrite {
                    self.refuse_other_keys().await?;
                }
                Ok(Stage::Copying {
                    revision: SourceRevision::default(),
                    next: self.keys().start,
                    sweep: self.options.overwrite,
                })
            }
            (Purpose::Follow { from }, Some(Stage::Following { revision, .. })) if *revision != from.source => {
                Err(ImportError::Moved { expected: from.source, found: *revision })
            }
            (Purpose::Follow { .. }, Some(stage @ Stage::Following { .. })) => Ok(stage.clone()),
            (Purpose::Follow { .. }, _) => Err(ImportError::NotCopied),
        }
    }

    async fn refuse_other_keys(&self) -> Result<(), ImportError> {
        let KeyRange { start, end } = self.keys();
        // Two, since one may be the position's.
        let range = pb::RangeRequest { key: start, range_end: end, limit: 2, keys_only: true, ..Default::default() };
        let found = self.target.range("list its keys", range).await?;
        match found.kvs.into_iter().find(|pair| pair.key != self.options.position_key) {
            Some(KeyValue { key, .. }) => Err(ImportError::NotEmpty { key }),
            None => Ok(()),
        }
    }
}

/// Removes the position from the target: the import is over, and a later one begins anew.
pub async fn finish(target: &Side, options: &Options) -> Result<(), ImportError> {
    let peer = Peer::new(Role::Target, target, options);
    let key: Bytes = options.position_key.clone();
    let delete = Operation::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() });
    let txn = pb::TxnRequest { success: vec![pb::RequestOp { request: Some(delete) }], ..Default::default() };
    peer.txn("delete the position", txn).await.map(drop)
}
