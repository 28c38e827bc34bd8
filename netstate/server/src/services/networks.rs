//! Networks: made, listed, removed.

use std::time::Duration;

use netstate_model::{DirectoryChange, DirectoryCommand, Network, NetworkCommand, NetworkConfig, NetworkId};
use netstate_proto::v1::{self as pb, networks_server::Networks};
use tonic::{Request, Response, Status};

use super::{Services, network_id, resolved};
use crate::{
    execute::{Changes, Command},
    keyspaces::Home,
    reconcile, wire,
};

/// How long a new or removed network may take to be seen as such on this node.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

fn made(changes: &Changes) -> Option<&Network> {
    let Changes::Directory(changes) = changes else { return None };
    changes.iter().find_map(|change| match change {
        DirectoryChange::Network(network) => Some(network),
        _ => None,
    })
}

#[tonic::async_trait]
impl Networks for Services {
    async fn create_network(
        &self,
        request: Request<pb::CreateNetworkRequest>,
    ) -> Result<Response<pb::CreateNetworkResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let command = DirectoryCommand::CreateNetwork {
            name: wire::name("network's name", &request.name)?,
            pools: wire::pools(&request.pools)?,
            block_len_v4: wire::block_len(request.block_len_v4)?,
            block_len_v6: wire::block_len(request.block_len_v6)?,
            labels: wire::labels(request.labels)?,
        };
        let done = self.execute(Command::Directory(command), &origin).await?;
        let network = made(&done.changes).ok_or_else(|| Status::internal("a network was made that is not there"))?;
        // The reconciler would do it as well; doing it here saves the wait for it.
        let install = NetworkCommand::Install(NetworkConfig::of(network));
        let install = reconcile::own(Command::Network(network.id, install), "the network is new");
        self.executor.execute(install).await.map_err(|error| wire::status(&error))?;
        let position = wire::position(Home::Directory, done.revision);
        let network = wire::network_to_proto(network, true, 0);
        Ok(Response::new(pb::CreateNetworkResponse { network: Some(network), position: Some(position) }))
    }

    async fn list_networks(
        &self,
        _request: Request<pb::ListNetworksRequest>,
    ) -> Result<Response<pb::ListNetworksResponse>, Status> {
        self.confirm_all().await?;
        let directory = self.view.directory();
        let render = |network: &Network| {
            let state = self.view.network(network.id).state;
            wire::network_to_proto(network, state.config().is_some(), state.len() as u64)
        };
        Ok(Response::new(pb::ListNetworksResponse {
            networks: directory.state.networks().map(render).collect(),
            position: Some(wire::position(Home::Directory, directory.revision)),
        }))
    }

    async fn get_network(
        &self,
        request: Request<pb::GetNetworkRequest>,
    ) -> Result<Response<pb::GetNetworkResponse>, Status> {
        let directory = self.directory().await?;
        let network = resolved(directory.state.resolve_network(&request.into_inner().network))?;
        let now = self.network(network.id).await?;
        let block = |(cidr, host): (ipnet::IpNet, netstate_model::HostId)| pb::Block {
            cidr: cidr.to_string(),
            host: directory.state.host(host).map_or_else(|| host.to_string(), |host| host.name.to_string()),
            used: now.state.used_in(cidr),
        };
        Ok(Response::new(pb::GetNetworkResponse {
            network: Some(wire::network_to_proto(network, now.state.config().is_some(), now.state.len() as u64)),
            blocks: now.state.blocks().map(block).collect(),
            position: Some(wire::position(Home::Network(network.id), now.revision)),
        }))
    }

    async fn delete_network(
        &self,
        request: Request<pb::DeleteNetworkRequest>,
    ) -> Result<Response<pb::DeleteNetworkResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let retire = |network| Command::Directory(DirectoryCommand::RetireNetwork { network });
        let id = match self.lookup(|directory| network_id(directory, &request.network)).await {
            Ok(id) => id,
            Err(status) => match self.repeated(retire(NetworkId::new(0)), &origin).await {
                Some(done) => {
                    let position = Some(wire::position(Home::Directory, done.revision));
                    return Ok(Response::new(pb::DeleteNetworkResponse { position }));
                }
                None => return Err(status),
            },
        };
        let begun = self.execute(retire(id), &origin).await?;
        // From here on the reconciler brings it to its end, or takes it back if endpoints are attached.
        let ended = async {
            loop {
                let directory = self.view.directory();
                if directory.revision >= begun.revision {
                    match directory.state.network(id) {
                        None => return Ok(directory.revision),
                        Some(network) if !network.retiring => {
                            let text = format!("network {} has endpoints attached; detach them first", network.name);
                            return Err(Status::failed_precondition(text));
                        }
                        Some(_) => {}
                    }
                }
                self.view.reached(Home::Directory, directory.revision.next()).await;
            }
        };
        let text = "the network is being removed; list networks to see when it is gone";
        let revision =
            tokio::time::timeout(SETTLE_PATIENCE, ended).await.map_err(|_| Status::deadline_exceeded(text))??;
        let position = Some(wire::position(Home::Directory, revision));
        Ok(Response::new(pb::DeleteNetworkResponse { position }))
    }
}
