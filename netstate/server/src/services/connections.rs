//! Connections: made, removed, listed.

use netstate_model::{Connection, ConnectionId, Context, DirectoryChange, DirectoryCommand, opened_pairs};
use netstate_proto::v1::{self as pb, connections_server::Connections};
use tonic::{Request, Response, Status};

use super::{Services, network_id, resolved};
use crate::{
    execute::{Changes, Command},
    keyspaces::Home,
    view::DirectoryAt,
    wire,
};

fn made(changes: &[DirectoryChange]) -> Option<&Connection> {
    changes.iter().find_map(|change| match change {
        DirectoryChange::Connection(connection) => Some(connection),
        _ => None,
    })
}

#[tonic::async_trait]
impl Connections for Services {
    async fn connect(&self, request: Request<pb::ConnectRequest>) -> Result<Response<pb::ConnectResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let sides = |directory: &DirectoryAt| {
            let from = wire::side("from", request.from.clone(), &directory.state)?;
            Ok((from, wire::side("to", request.to.clone(), &directory.state)?))
        };
        let (from, to) = self.lookup(sides).await?;
        for side in [&from, &to] {
            self.confirm(Home::Network(side.network)).await?;
        }
        let command = DirectoryCommand::Connect {
            from,
            to,
            protocol: wire::protocol(request.protocol)?,
            ports: wire::ports(&request.ports)?,
            lifetime: wire::lifetime(request.lifetime_seconds),
        };
        // What it opens is counted before it is there, or it would open nothing new.
        let before = self.view.directory();
        let (connection, position) = if request.dry_run {
            let directory = self.directory().await?;
            let context = Context { now: self.now(), actor: &origin.actor, reason: &origin.reason };
            let changes = resolved(directory.state.decide(command, &context))?;
            (made(&changes).cloned(), None)
        } else {
            let done = self.execute(Command::Directory(command), &origin).await?;
            let Changes::Directory(changes) = &done.changes else {
                return Err(Status::internal("the directory answered for a network"));
            };
            (made(changes).cloned(), Some(wire::position(Home::Directory, done.revision)))
        };
        let connection = connection.ok_or_else(|| Status::internal("a connection was made that is not there"))?;
        let networks = |id| Some(self.view.network(id).state);
        let opened = resolved(opened_pairs(&before.state, &networks, &connection, self.now()))?;
        let mut shown = wire::connection_to_proto(&connection, &before.state);
        if request.dry_run {
            shown.id.clear();
        }
        Ok(Response::new(pb::ConnectResponse {
            connection: Some(shown),
            position,
            from_endpoints: opened.from_endpoints,
            to_endpoints: opened.to_endpoints,
            pairs: opened.pairs,
            pairs_new: opened.pairs_new,
            hosts: opened.hosts.len() as u64,
        }))
    }

    async fn disconnect(
        &self,
        request: Request<pb::DisconnectRequest>,
    ) -> Result<Response<pb::DisconnectResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let wanted = |directory: &DirectoryAt| {
            let connection = resolved(directory.state.resolve_connection(&request.connection))?;
            Ok((connection.id, wire::connection_to_proto(connection, &directory.state)))
        };
        // One that is gone may be asked for again: the command itself is answered as it was the first time.
        let (id, shown) = match (self.lookup(wanted).await, request.connection.parse::<ConnectionId>()) {
            (Ok((id, shown)), _) => (id, Some(shown)),
            (Err(_), Ok(id)) => (id, None),
            (Err(status), Err(_)) => return Err(status),
        };
        let command = Command::Directory(DirectoryCommand::Disconnect { connection: id });
        let done = self.execute(command, &origin).await?;
        let position = Some(wire::position(Home::Directory, done.revision));
        Ok(Response::new(pb::DisconnectResponse { connection: shown, position }))
    }

    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<pb::ListConnectionsResponse>, Status> {
        let directory = self.directory().await?;
        let render = |connection: &Connection| wire::connection_to_proto(connection, &directory.state);
        let connections = match request.into_inner().network.as_str() {
            "" => directory.state.connections().map(render).collect(),
            name => directory.state.connections_of(network_id(&directory, name)?).map(render).collect(),
        };
        let position = Some(wire::position(Home::Directory, directory.revision));
        Ok(Response::new(pb::ListConnectionsResponse { connections, position }))
    }

    async fn get_connection(
        &self,
        request: Request<pb::GetConnectionRequest>,
    ) -> Result<Response<pb::GetConnectionResponse>, Status> {
        let directory = self.directory().await?;
        let connection = resolved(directory.state.resolve_connection(&request.into_inner().connection))?;
        Ok(Response::new(pb::GetConnectionResponse {
            connection: Some(wire::connection_to_proto(connection, &directory.state)),
            position: Some(wire::position(Home::Directory, directory.revision)),
        }))
    }
}
