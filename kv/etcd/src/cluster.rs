//! The Cluster service: who the members are. Changing them is this store's own command's work.

use etcd_proto::etcdserverpb::{self as pb, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use crate::{access::Shared, status};

/// The Cluster service.
#[derive(Clone)]
pub(crate) struct ClusterService(pub(crate) Shared);

/// What changes members, to be said in refusals.
fn not_here() -> Status {
    Status::unimplemented("members are not changed through the etcd API; use `netstate cluster`")
}

impl ClusterService {
    fn members(&self) -> Vec<pb::Member> {
        let member = |member: &kv_node::MemberInfo| {
            let urls = self.0.config().client_urls.iter().filter(|(node, _)| *node == member.id);
            pb::Member {
                id: member.id.get(),
                name: member.name.clone(),
                peer_ur_ls: vec![format!("http://{}", member.peer)],
                client_ur_ls: urls.map(|(_, url)| url.clone()).collect(),
                is_learner: false,
            }
        };
        self.0.node().members().iter().map(member).collect()
    }

    fn known(&self, id: u64) -> Result<(), Status> {
        match self.0.node().members().iter().any(|member| member.id.get() == id) {
            true => Ok(()),
            false => Err(status::member_not_found()),
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let keyspace = self.0.keyspace(request.metadata())?;
        let header = Some(self.0.plain_header(&keyspace));
        Ok(Response::new(pb::MemberListResponse { header, members: self.members() }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.0.caller(&request)?.may_administrate()?;
        Err(not_here())
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.0.caller(&request)?.may_administrate()?;
        self.known(request.get_ref().id)?;
        Err(not_here())
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.0.caller(&request)?.may_administrate()?;
        self.known(request.get_ref().id)?;
        Err(not_here())
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.0.caller(&request)?.may_administrate()?;
        self.known(request.get_ref().id)?;
        Err(Status::failed_precondition("etcdserver: can only promote a learner member"))
    }
}
