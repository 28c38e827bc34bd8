//! What other nodes ask of this one.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use kv_core::{GroupId, NodeId, limits};
use kv_proto::peer::v1::Kind;
use openraft::raft::AppendEntriesRequest;
use serde::Serialize;

use crate::{
    barrier,
    catalog::{Candidate, MembershipError},
    error::CommitError,
    forward::Forwarded,
    leases::LeaseCall,
    link::{Handler, join::Joined},
    members,
    node::Inner,
    proposer::Answer,
    raft::{Types, decode, encode},
};

/// Bytes of the answers to transactions in one message: it has to fit a frame, with others.
const ANSWERS_BYTES: usize = limits::COMMIT_BYTES;

impl Handler for Inner {
    fn handle(
        self: Arc<Self>,
        from: NodeId,
        kind: Kind,
        group: GroupId,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move {
            match kind {
                Kind::Call => return self.calls.call(from, payload).await,
                Kind::Survey => return Ok(encode(&self.survey())),
                Kind::Rest => return self.rest.hear(&self, from, &payload).map(|groups| encode(&groups)),
                Kind::Heads => return self.heads.hear(&self, from, &payload).map(|()| Bytes::new()),
                _ => {}
            }
            let group = self.group(group).ok_or_else(|| format!("there is no {group} here"))?;
            if let Some(reason) = group.leadership.problem() {
                return Err(format!("{} is out of service: {reason}", group.id));
            }
            let raft = &group.raft;
            match kind {
                Kind::Append => {
                    answer(&payload, |request: AppendEntriesRequest<Types>| async {
                        // Heartbeats carry nothing to write.
                        if !request.entries.is_empty()
                            && let Err(full) = self.disk.check_removal()
                        {
                            return Err(format!("{} has only {} bytes free", full.folder, full.free_bytes));
                        }
                        raft.append_entries(request).await.map_err(|error| error.to_string())
                    })
                    .await
                }
                Kind::Vote => answer(&payload, |request| raft.vote(request)).await,
                Kind::PreVote => answer(&payload, |request| raft.pre_vote(request)).await,
                Kind::TransferLeader => answer(&payload, |request| raft.handle_transfer_leader(request)).await,
                Kind::SnapshotChunk => self.incoming.take(from, group.id, self.store.state(), raft, &payload).await,
                Kind::ReadIndex => {
                    barrier::read_index(raft).await.map(|index| encode(&index)).ok_or("not the leader".into())
                }
                Kind::Txn => {
                    let asked: Vec<Forwarded> = decode(&payload).map_err(|error| format!("malformed: {error}"))?;
                    let each = asked.into_iter().map(|asked| {
                        let proposer = &group.proposer;
                        async move { proposer.propose(&asked.keyspace, asked.txns).await }
                    });
                    let answers: Vec<Answer> = futures::future::join_all(each).await;
                    Ok(fitting(group.id, answers))
                }
                Kind::Lease => {
                    let asked: LeaseCall = decode(&payload).map_err(|error| format!("malformed: {error}"))?;
                    Ok(encode(&group.lease_call(asked).await))
                }
                Kind::Fetch => self.fetched(from, group, &payload).await,
                Kind::Step => self.take_step(group, &payload).await.map(|()| Bytes::new()),
                Kind::Unspecified | Kind::Call | Kind::Rest | Kind::Heads | Kind::Survey => {
                    Err("unknown kind of request".into())
                }
            }
        })
    }

    fn recognises(&self, candidate: &Candidate) -> Result<(), String> {
        self.catalog.get().map_or(Ok(()), |catalog| catalog.recognises(&candidate.name, candidate.instance))
    }

    fn join(self: Arc<Self>, candidate: Candidate) -> BoxFuture<'static, Result<Joined, MembershipError>> {
        members::join(self, candidate)
    }
}

/// Answers in one message. Of those that make it larger than a message may be it is said that they are not known: each
/// may hold as many bytes as previous values have.
fn fitting(group: GroupId, answers: Vec<Answer>) -> Bytes {
    let whole = encode(&answers);
    if whole.len() <= ANSWERS_BYTES {
        return whole;
    }
    let mut left = ANSWERS_BYTES;
    let fit = |answer: Answer| {
        let bytes = encode(&answer).len();
        if bytes > left {
            return Err(CommitError::Unknown { group });
        }
        left -= bytes;
        answer
    };
    encode(&answers.into_iter().map(fit).collect::<Vec<_>>())
}

/// Decodes a request, has it answered, encodes the answer.
async fn answer<Q, A, E, F>(payload: &[u8], ask: impl FnOnce(Q) -> F) -> Result<Bytes, String>
where
    Q: serde::de::DeserializeOwned,
    A: Serialize,
    E: std::fmt::Display,
    F: Future<Output = Result<A, E>>,
{
    let request = decode(payload).map_err(|error| format!("malformed: {error}"))?;
    match ask(request).await {
        Ok(answered) => Ok(encode(&answered)),
        Err(error) => Err(error.to_string()),
    }
}
