//! A node asks to be taken into a cluster, before it has an identity and links.

use std::time::Duration;

use kv_core::{ClusterId, InstanceId, NodeId};
use kv_proto::peer::v1::{JoinRequest, JoinResponse, Member, peer_client::PeerClient};
use tonic::{Code, Status};

use super::{Identity, PROTOCOL, dial, frame};
use crate::{
    catalog::{Candidate, MembershipError},
    config::MemberInfo,
};

/// How long a member may take to answer: it asks the leader of group 0, which there may not be for a moment.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What a node that was taken in needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) groups: u16,
    /// All members, the new one included.
    pub(crate) members: Vec<MemberInfo>,
}

/// Why a node was not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// Asking again, or another node, may help.
    Later(String),
    /// It won't.
    Never(String),
}

/// Asks the node at an address. `cluster`: that of a directory that has one already; the answer is `None` then.
pub(crate) async fn ask(
    address: &str,
    candidate: &Candidate,
    cluster: Option<ClusterId>,
) -> Result<Option<Joined>, NotJoined> {
    let request = JoinRequest {
        protocol: PROTOCOL,
        name: candidate.name.clone(),
        peer: candidate.peer.clone(),
        zone: candidate.zone.clone(),
        relay: candidate.relay,
        instance: candidate.instance.get().to_vec().into(),
        version: candidate.version.clone(),
        cluster: cluster.map(|cluster| cluster.get().to_vec()).unwrap_or_default().into(),
    };
    let asking = async {
        let channel = dial::connect(address).await.map_err(NotJoined::Later)?;
        let answer = PeerClient::new(channel).join(request).await.map_err(|status| match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument => NotJoined::Never(status.message().into()),
            // A member of an older version takes nobody in, and says nothing of whose cluster this is.
            Code::Unimplemented if cluster.is_none() => NotJoined::Never(status.message().into()),
            _ => NotJoined::Later(status.message().into()),
        })?;
        let answer = answer.into_inner();
        if cluster.is_some() { Ok(None) } else { read(answer).map(Some).map_err(NotJoined::Never) }
    };
    let timed = tokio::time::timeout(ANSWER_PATIENCE, asking).await;
    timed.unwrap_or_else(|_| Err(NotJoined::Later("no answer in time".into())))
}

fn read(answer: JoinResponse) -> Result<Joined, String> {
    let cluster = answer.cluster.as_ref().try_into().map_err(|_| "its cluster id is malformed".to_owned())?;
    let groups = u16::try_from(answer.groups).map_err(|_| format!("it has {} groups", answer.groups))?;
    let member = |member: Member| MemberInfo { id: NodeId::new(member.node), name: member.name, peer: member.peer };
    let members = answer.members.into_iter().map(member).collect();
    Ok(Joined { cluster: ClusterId::new(cluster), node: NodeId::new(answer.node), groups, members })
}

/// What a node asks.
pub(super) enum Asked {
    /// To belong to the cluster.
    Join(Candidate),
    /// Whether it does.
    Belongs(Candidate),
}

/// Reads what a node asks. Whether it belongs here is refused at once if its directory is of another cluster.
pub(super) fn parse(own: Identity, request: JoinRequest) -> Result<Asked, Status> {
    frame::common_protocol(request.protocol, 0).map_err(Status::failed_precondition)?;
    let belongs = !request.cluster.is_empty();
    if belongs && request.cluster != own.cluster.get().as_slice() {
        let found = <[u8; 16]>::try_from(request.cluster.as_ref()).map(ClusterId::new);
        let found = found.map_or_else(|_| "an unknown one".to_owned(), |cluster| cluster.to_string());
        return Err(Status::failed_precondition(format!(
            "the data directory of {} belongs to another cluster ({found}) than {}; correct --data-dir, or which nodes it \
             is started with",
            request.name, own.cluster
        )));
    }
    let instance = request.instance.as_ref().try_into();
    let instance = instance.map_err(|_| Status::invalid_argument("an instance has 16 bytes"))?;
    let candidate = Candidate {
        name: request.name,
        peer: request.peer,
        zone: request.zone,
        relay: request.relay,
        instance: InstanceId::new(instance),
        version: request.version,
    };
    Ok(if belongs { Asked::Belongs(candidate) } else { Asked::Join(candidate) })
}

pub(super) fn answer(own: Identity, joined: Joined) -> JoinResponse {
    let member = |member: MemberInfo| Member { node: member.id.get(), name: member.name, peer: member.peer };
    JoinResponse {
        cluster: own.cluster.get().to_vec().into(),
        node: joined.node.get(),
        groups: joined.groups.into(),
        members: joined.members.into_iter().map(member).collect(),
    }
}

pub(super) fn refusal(error: &MembershipError) -> Status {
    match error {
        MembershipError::NotFounded | MembershipError::NotWritten { .. } => Status::unavailable(error.to_string()),
        MembershipError::Malformed { .. } => Status::invalid_argument(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    }
}
