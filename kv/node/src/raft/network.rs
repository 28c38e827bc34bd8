//! openraft's requests to one other node, carried by the link to it.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kv_core::{GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use openraft::{
    OptionalSend, RaftNetworkFactory,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{MemberNode, Snapshot, SnapshotData, Types, Vote, decode, encode};
use crate::{
    counts::Counts,
    link::{LinkError, Links},
    snapshot::{self, Pace, SendError},
};

/// How long a follower may take for one request: it syncs what it appends, and its disk may be busy. A dead one is noticed by
/// its link.
const APPEND_PATIENCE: Duration = Duration::from_secs(10);

/// Append requests to one follower of one group that are on their way at a time.
const APPENDS_IN_FLIGHT: usize = 8;

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// Makes the clients of one group.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) links: Links,
    pub(crate) pace: Pace,
    pub(crate) counts: Arc<Counts>,
}

/// One group's client for one other node.
pub(crate) struct Client {
    group: GroupId,
    target: NodeId,
    links: Links,
    pace: Pace,
    counts: Arc<Counts>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &MemberNode) -> Client {
        let (links, pace, counts) = (self.links.clone(), self.pace.clone(), self.counts.clone());
        Client { group: self.group, target: NodeId::new(target), links, pace, counts }
    }
}

impl Client {
    async fn ask<Q, A>(&self, kind: Kind, request: &Q, patience: Duration) -> Result<A, RPCError<Types>>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let asked = self.links.request(self.target, kind, self.group, encode(request), patience).await;
        let answer = asked.map_err(|error| rpc_error(&error))?;
        decode(&answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

fn rpc_error(error: &LinkError) -> RPCError<Types> {
    match error {
        // openraft then waits before it tries again, for a second in the end; with log entries no longer than until `resume`.
        LinkError::Unsent | LinkError::Lost => RPCError::Unreachable(Unreachable::new(error)),
        LinkError::Timeout | LinkError::Refused { .. } => RPCError::Network(NetworkError::new(error)),
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.ask(Kind::Append, &request, APPEND_PATIENCE).await
    }

    /// Sends requests before earlier ones are answered. The link keeps their order, and so does the other end, which hands
    /// each to its group before it looks at the next.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let client = &*self;
        let answers = input
            .map(move |request| async move {
                let previous = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(previous);
                let asked: Result<AppendEntriesResponse<Types>, _> =
                    client.ask(Kind::Append, &request, APPEND_PATIENCE).await;
                let answer = match asked {
                    Ok(AppendEntriesResponse::Success) => Ok(Ok(last)),
                    Ok(AppendEntriesResponse::PartialSuccess(upto)) => Ok(Ok(upto)),
                    Ok(AppendEntriesResponse::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote))),
                    Ok(AppendEntriesResponse::Conflict) => match previous {
                        Some(previous) => Ok(Err(StreamAppendError::Conflict(previous))),
                        None => {
                            let text = "the follower found a conflict with an empty log";
                            Err(RPCError::Network(NetworkError::from_string(text)))
                        }
                    },
                    Err(error) => Err(error),
                };
                let whole = matches!(&answer, Ok(Ok(upto)) if *upto == last);
                (answer, whole)
            })
            .buffered(APPENDS_IN_FLIGHT)
            // Nothing behind a request that was not taken whole counts: it does not connect to what the follower has.
            .scan(false, |ended, (answer, whole)| {
                let ended = std::mem::replace(ended, !whole);
                std::future::ready((!ended).then_some(answer))
            });
        Box::pin(std::future::ready(Ok::<Answers<'s>, _>(Box::pin(answers))))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(Kind::Vote, &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(Kind::PreVote, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let counts = &self.counts.sent;
        let sending = snapshot::send(&self.links, self.target, self.group, &self.pace, vote, snapshot, counts);
        tokio::select! {
            sent = sending => sent.map_err(|error| match error {
                SendError::Link(error) => rpc_error(&error).into(),
                error => NetworkError::new(&error).into(),
            }),
            closed = cancel => {
                self.counts.sent.failed.add(1);
                Err(closed.into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.ask(Kind::TransferLeader, &request, option.hard_ttl()).await
    }
}
