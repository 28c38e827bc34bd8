//! One method for each operation of `netstate.v1`, except the host watch.

use netstate_proto::v1::{
    self as pb, backups_client::BackupsClient, cluster_client::ClusterClient, connections_client::ConnectionsClient,
    endpoints_client::EndpointsClient, hosts_client::HostsClient, networks_client::NetworksClient,
    queries_client::QueriesClient,
};

use crate::{Answers, Client, ClientError, connect::MESSAGE_BYTES_MAX};

/// Operations that change something: `request.origin` gets a request id when it has none.
macro_rules! changes {
    ($($(#[$doc:meta])* $service:ident :: $method:ident ($request:ident) -> $response:ident as $name:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As [`Client::change`].
                pub async fn $name(&self, mut request: pb::$request) -> Result<pb::$response, ClientError> {
                    let mut origin = request.origin.take();
                    let request = &request;
                    self.change(&mut origin, |channel, origin| {
                        let request = pb::$request { origin: Some(origin), ..request.clone() };
                        let mut service = $service::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                        async move { service.$method(request).await }
                    })
                    .await
                }
            )*
        }
    };
}

/// Operations that only ask.
macro_rules! questions {
    ($($(#[$doc:meta])* $service:ident :: $method:ident ($request:ident) -> $response:ident as $name:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As [`Client::call`].
                pub async fn $name(&self, request: pb::$request) -> Result<pb::$response, ClientError> {
                    let request = &request;
                    self.call(|channel| {
                        let request = request.clone();
                        let mut service = $service::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                        async move { service.$method(request).await }
                    })
                    .await
                }
            )*
        }
    };
}

/// Operations that are answered by a stream.
macro_rules! streams {
    ($($(#[$doc:meta])* $service:ident :: $method:ident ($request:ident) -> $response:ident as $name:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As [`Client::call`] until the stream begins, then as [`Answers::message`].
                pub async fn $name(&self, request: pb::$request) -> Result<Answers<pb::$response>, ClientError> {
                    let request = &request;
                    let stream = self.call(|channel| {
                        let request = request.clone();
                        let mut service = $service::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                        async move { service.$method(request).await }
                    });
                    Ok(Answers::new(stream.await?))
                }
            )*
        }
    };
}

changes! {
    /// Makes a network.
    NetworksClient::create_network(CreateNetworkRequest) -> CreateNetworkResponse as create_network;
    /// Removes a network that nothing refers to.
    NetworksClient::delete_network(DeleteNetworkRequest) -> DeleteNetworkResponse as delete_network;
    /// Attaches up to 10,000 endpoints; each network named has a result of its own.
    EndpointsClient::attach(AttachRequest) -> AttachResponse as attach;
    /// Detaches up to 10,000 endpoints; each network named has a result of its own.
    EndpointsClient::detach(DetachRequest) -> DetachResponse as detach;
    /// Puts an endpoint into quarantine or takes it out.
    EndpointsClient::set_quarantine(SetQuarantineRequest) -> SetQuarantineResponse as set_quarantine;
    /// Allows traffic from one network to another.
    ConnectionsClient::connect(ConnectRequest) -> ConnectResponse as open_connection;
    /// Takes a connection back.
    ConnectionsClient::disconnect(DisconnectRequest) -> DisconnectResponse as disconnect;
    /// Registers a host or updates its registration.
    HostsClient::register_host(RegisterHostRequest) -> RegisterHostResponse as register_host;
    /// Removes a host that has no endpoints.
    HostsClient::delete_host(DeleteHostRequest) -> DeleteHostResponse as delete_host;
    /// Says what becomes of the endpoints of hosts that no server hears any more.
    HostsClient::set_host_policy(SetHostPolicyRequest) -> SetHostPolicyResponse as set_host_policy;
}

questions! {
    /// Every network.
    NetworksClient::list_networks(ListNetworksRequest) -> ListNetworksResponse as list_networks;
    /// One network and its blocks.
    NetworksClient::get_network(GetNetworkRequest) -> GetNetworkResponse as get_network;
    /// One endpoint.
    EndpointsClient::get_endpoint(GetEndpointRequest) -> GetEndpointResponse as get_endpoint;
    /// Every connection, or those of one network.
    ConnectionsClient::list_connections(ListConnectionsRequest) -> ListConnectionsResponse as list_connections;
    /// One connection.
    ConnectionsClient::get_connection(GetConnectionRequest) -> GetConnectionResponse as get_connection;
    /// Every host.
    HostsClient::list_hosts(ListHostsRequest) -> ListHostsResponse as list_hosts;
    /// The relays that hosts had better be with.
    HostsClient::find_relays(FindRelaysRequest) -> FindRelaysResponse as find_relays;
    /// May one talk to the other, on what, because of which connections?
    QueriesClient::reach(ReachRequest) -> ReachResponse as reach;
    /// Who can reach this?
    QueriesClient::exposure(ExposureRequest) -> ExposureResponse as exposure;
    /// Which hosts have programmed a change, which not yet?
    QueriesClient::convergence(ConvergenceRequest) -> ConvergenceResponse as convergence;
    /// Nodes and groups.
    ClusterClient::cluster_status(ClusterStatusRequest) -> ClusterStatusResponse as cluster_status;
    /// Has a node leave, be replaced, or be drained. Asking twice does no harm.
    ClusterClient::change_node(ChangeNodeRequest) -> ChangeNodeResponse as change_node;
    /// Sets how many voters each group should have.
    ClusterClient::set_replicas(SetReplicasRequest) -> SetReplicasResponse as set_replicas;
    /// Has a node fetch the state of its damaged replicas from the others.
    ClusterClient::repair(RepairRequest) -> RepairResponse as repair;
    /// Begins to move a keyspace to another group. An attempt whose answer was lost is refused the second time: it moves.
    ClusterClient::move_keyspace(MoveKeyspaceRequest) -> MoveKeyspaceResponse as move_keyspace;
    /// Gives up a move. Asking twice does no harm.
    ClusterClient::stop_move(StopMoveRequest) -> StopMoveResponse as stop_move;
    /// The moves under way, and how the last ones ended.
    ClusterClient::list_moves(ListMovesRequest) -> ListMovesResponse as list_moves;
}

streams! {
    /// The endpoints of a network, of a host, or all, in chunks.
    EndpointsClient::list_endpoints(ListEndpointsRequest) -> ListEndpointsResponse as list_endpoints;
    /// The audit trail, oldest record first.
    QueriesClient::audit_log(AuditLogRequest) -> AuditLogResponse as audit_log;
    /// Has every replica walk its chains; one message for each node and group.
    QueriesClient::audit_verify(AuditVerifyRequest) -> AuditVerifyResponse as audit_verify;
    /// The state of the whole cluster, as the bytes of a file.
    BackupsClient::save_backup(SaveBackupRequest) -> SaveBackupResponse as save_backup;
}
