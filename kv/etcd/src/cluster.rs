//! The Cluster service: who the members are. Changing them is this store's own command's work.

use etcd_proto::etcdserverpb::{self as pb, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use crate::{access::Shared, members, status};

/// The Cluster service.
#[derive(Clone)]
pub(crate) struct ClusterService(pub(crate) Shared);

/// What changes members, to be said in refusals.
fn not_here() -> Status {
    Status::unimplemented("members are not changed through the etcd API; use `netstate cluster`")
}

/// Whether all are addresses of a member as etcd takes them: a scheme, a host and a port, and nothing after it.
fn peer_urls(urls: &[String]) -> Result<(), Status> {
    let valid = |url: &String| {
        let Ok(uri) = url.trim().parse::<http::Uri>() else { return false };
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.port_u16().is_some()
            && path.trim_end_matches('/').is_empty()
            && !url.trim().ends_with('/')
    };
    if urls.is_empty() || !urls.iter().all(valid) { Err(status::bad_member_urls()) } else { Ok(()) }
}

impl ClusterService {
    fn members(&self) -> Vec<pb::Member> {
        let known = members::client_urls(&self.0);
        let member = |member: &kv_node::MemberInfo| {
            let urls = known.iter().filter(|(node, _)| *node == member.id);
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
        peer_urls(&request.get_ref().peer_ur_ls)?;
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
