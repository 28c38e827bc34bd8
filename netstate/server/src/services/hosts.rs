//! Hosts: registered, listed, removed, watched over.

use netstate_model::{DirectoryCommand, Host, HostId};
use netstate_proto::v1::{self as pb, hosts_server::Hosts};
use tonic::{Request, Response, Status, Streaming};

use super::{Services, resolved};
use crate::{
    execute::Command,
    keyspaces::Home,
    watch::{self, presence},
    wire,
};

#[tonic::async_trait]
impl Hosts for Services {
    type WatchStream = watch::Frames;

    async fn register_host(
        &self,
        request: Request<pb::RegisterHostRequest>,
    ) -> Result<Response<pb::RegisterHostResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let underlay = request.underlay.parse().map_err(|_| {
            let text = format!("underlay {} is no IP address", wire::quoted(&request.underlay));
            Status::invalid_argument(text)
        })?;
        let command = DirectoryCommand::RegisterHost {
            name: wire::name("host's name", &request.name)?,
            underlay,
            labels: wire::labels(request.labels)?,
        };
        let done = self.execute(Command::Directory(command), &origin).await?;
        // Its watch may well begin on this node.
        self.view.reached(Home::Directory, done.revision).await;
        let directory = self.view.directory();
        let state = &directory.state;
        let host = state.host_named(&request.name);
        let host = host.map(|host| wire::host_to_proto(state, host, self.view.endpoints_on(host.id), None));
        let position = Some(wire::position(Home::Directory, done.revision));
        Ok(Response::new(pb::RegisterHostResponse { host, position }))
    }

    async fn list_hosts(
        &self,
        _request: Request<pb::ListHostsRequest>,
    ) -> Result<Response<pb::ListHostsResponse>, Status> {
        self.confirm_all().await?;
        let heard = self.heard().await;
        let directory = self.view.directory();
        let render = |host: &Host| {
            let presence = presence::presence(&heard, host.id);
            wire::host_to_proto(&directory.state, host, self.view.endpoints_on(host.id), Some(presence))
        };
        Ok(Response::new(pb::ListHostsResponse {
            hosts: directory.state.hosts().map(render).collect(),
            position: Some(wire::position(Home::Directory, directory.revision)),
            policy: Some(wire::host_policy_to_proto(directory.state.host_policy())),
        }))
    }

    async fn delete_host(
        &self,
        request: Request<pb::DeleteHostRequest>,
    ) -> Result<Response<pb::DeleteHostResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        self.confirm_all().await?;
        let directory = self.view.directory();
        let remove = |host, endpoints| Command::Directory(DirectoryCommand::RemoveHost { host, endpoints });
        let done = match resolved(directory.state.resolve_host(&request.host).map(|host| host.id)) {
            Ok(host) => self.execute(remove(host, self.view.endpoints_on(host)), &origin).await?,
            Err(status) => self.repeated(remove(HostId::new(0), 0), &origin).await.ok_or(status)?,
        };
        let position = Some(wire::position(Home::Directory, done.revision));
        Ok(Response::new(pb::DeleteHostResponse { position }))
    }

    async fn set_host_policy(
        &self,
        request: Request<pb::SetHostPolicyRequest>,
    ) -> Result<Response<pb::SetHostPolicyResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let policy = request.policy.ok_or_else(|| Status::invalid_argument("a policy is missing"))?;
        let detach_after = wire::host_policy(&policy)?;
        let command = Command::Directory(DirectoryCommand::SetHostPolicy { detach_after });
        let done = self.execute(command, &origin).await?;
        let position = Some(wire::position(Home::Directory, done.revision));
        Ok(Response::new(pb::SetHostPolicyResponse { position }))
    }

    async fn find_relays(
        &self,
        _request: Request<pb::FindRelaysRequest>,
    ) -> Result<Response<pb::FindRelaysResponse>, Status> {
        let relays = self.relays.now(&self.node).await;
        Ok(Response::new(pb::FindRelaysResponse { relays, cluster_id: self.node.cluster().to_string() }))
    }

    async fn watch(&self, request: Request<Streaming<pb::HostReport>>) -> Result<Response<Self::WatchStream>, Status> {
        let reports = request.into_inner();
        let frames = watch::serve(self.hub.clone(), self.view.clone(), reports, self.stop.clone()).await?;
        Ok(Response::new(frames))
    }
}
