//! Questions: reach, exposure, convergence, audit.

use std::{collections::BTreeMap, pin::Pin};

use futures::Stream;
use kv_core::{Keyspace, Revision};
use netstate_model::{
    Connection, ConnectionId, DirectoryChange, HostId, Permit, Subject, Verdict, exposure, hosts_of, reach,
};
use netstate_proto::v1::{self as pb, queries_server::Queries};
use tonic::{Request, Response, Status};

use super::{Services, network_id, resolved};
use crate::{
    forward::{Call, HostProgress, Question},
    keyspaces::Home,
    view::{DirectoryAt, directory_changes},
    watch::presence::presence,
    wire,
};

/// Records of the directory's history read at a time.
const HISTORY_PAGE: usize = 512;

impl Services {
    /// What is asked about: a network, or an endpoint where there is a slash or an endpoint's id.
    async fn subject(&self, wanted: &str) -> Result<Subject, Status> {
        if wanted.contains('/') || wanted.parse::<netstate_model::EndpointId>().is_ok() {
            return Ok(Subject::Endpoint(self.endpoint(wanted).await?.0));
        }
        let id = self.lookup(|directory| network_id(directory, wanted)).await?;
        self.confirm(Home::Network(id)).await?;
        Ok(Subject::Network(id))
    }

    fn positions(&self, directory: &DirectoryAt, subjects: &[Subject]) -> Vec<pb::Position> {
        let mut homes: Vec<_> = subjects
            .iter()
            .map(|subject| match subject {
                Subject::Network(id) => *id,
                Subject::Endpoint(id) => id.network(),
            })
            .collect();
        homes.sort_unstable();
        homes.dedup();
        let network = |id| wire::position(Home::Network(id), self.view.revision(Home::Network(id)));
        let first = wire::position(Home::Directory, directory.revision);
        std::iter::once(first).chain(homes.into_iter().map(network)).collect()
    }

    /// A connection that is no more, as the directory's history has it: its hosts have to have taken it out.
    async fn removed_connection(&self, id: ConnectionId) -> Result<Connection, Status> {
        let node = self.node.clone();
        let searching = tokio::task::spawn_blocking(move || {
            let (keyspace, mut after) = (Home::Directory.keyspace(), Revision::ZERO);
            loop {
                let page = node.records(&keyspace, after, HISTORY_PAGE)?;
                let Some(last) = page.last() else { return Ok(None) };
                after = last.record.revision;
                let changes = page.iter().filter_map(|record| record.changes.as_deref());
                let made = changes.filter_map(|changes| directory_changes(changes).ok()).flatten();
                let found = made.filter_map(|change| match change {
                    DirectoryChange::Connection(connection) if connection.id == id => Some(connection),
                    _ => None,
                });
                if let Some(found) = found.last() {
                    return Ok(Some(found));
                }
            }
        });
        let found: Result<_, kv_node::ReadError> =
            searching.await.map_err(|error| Status::internal(error.to_string()))?;
        let found = found.map_err(|error| Status::unavailable(error.to_string()))?;
        found.ok_or_else(|| Status::not_found(format!("there has never been a connection {id}")))
    }

    /// The hosts that a question is about, with what is known of those that no node serves.
    async fn concerned(&self, what: pb::convergence_request::What) -> Result<(Question, Vec<HostId>), Status> {
        use pb::convergence_request::What;
        match what {
            What::Connection(text) => {
                let id: ConnectionId =
                    text.parse().map_err(|error| Status::invalid_argument(format!("connection: {error}")))?;
                let directory = self.directory().await?;
                let there = directory.state.connection(id).cloned();
                let question = Question::Connection { id, there: there.is_some() };
                let connection = match there {
                    Some(connection) => connection,
                    None => self.removed_connection(id).await?,
                };
                for side in [&connection.from, &connection.to] {
                    self.confirm(Home::Network(side.network)).await?;
                }
                let networks = |id| Some(self.view.network(id).state);
                Ok((question, hosts_of(&connection, &networks).into_iter().collect()))
            }
            What::Position(position) => {
                let revision = Revision::new(position.revision);
                let home = Keyspace::new(&position.keyspace).ok().as_ref().and_then(Home::of);
                let text = || format!("{} is no keyspace of networks", wire::quoted(&position.keyspace));
                let home = home.ok_or_else(|| Status::invalid_argument(text()))?;
                self.confirm(home).await?;
                if self.view.revision(home) < revision {
                    let text =
                        format!("{} is at {}, not at {revision} yet", position.keyspace, self.view.revision(home));
                    return Err(Status::failed_precondition(text));
                }
                match home {
                    Home::Directory => {
                        let hosts = self.view.directory().state.hosts().map(|host| host.id).collect();
                        Ok((Question::Directory(revision), hosts))
                    }
                    Home::Network(id) => {
                        let hosts = self.view.network(id).state.hosts().collect();
                        Ok((Question::Network(id, revision), hosts))
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Queries for Services {
    type AuditLogStream = Pin<Box<dyn Stream<Item = Result<pb::AuditLogResponse, Status>> + Send>>;
    type AuditVerifyStream = Pin<Box<dyn Stream<Item = Result<pb::AuditVerifyResponse, Status>> + Send>>;

    async fn reach(&self, request: Request<pb::ReachRequest>) -> Result<Response<pb::ReachResponse>, Status> {
        let request = request.into_inner();
        let (from, to) = (self.subject(&request.from).await?, self.subject(&request.to).await?);
        let directory = self.directory().await?;
        let networks = |id| Some(self.view.network(id).state);
        let found = resolved(reach(&directory.state, &networks, &from, &to, self.now()))?;
        let verdict = match found.verdict {
            Verdict::Allowed => pb::Verdict::Allowed,
            Verdict::Partly => pb::Verdict::Partly,
            Verdict::Denied => pb::Verdict::Denied,
        };
        let permit = |permit: &Permit| pb::Permit {
            connection: match permit {
                Permit::SameNetwork { .. } => None,
                Permit::Connection { connection, .. } => Some(wire::connection_to_proto(connection, &directory.state)),
            },
            pairs: permit.pairs(),
        };
        Ok(Response::new(pb::ReachResponse {
            verdict: verdict.into(),
            explanation: found.explanation,
            permits: found.permits.iter().map(permit).collect(),
            pairs: found.pairs,
            pairs_possible: found.pairs_possible,
            positions: self.positions(&directory, &[from, to]),
        }))
    }

    async fn exposure(&self, request: Request<pb::ExposureRequest>) -> Result<Response<pb::ExposureResponse>, Status> {
        let target = self.subject(&request.into_inner().target).await?;
        let directory = self.directory().await?;
        let networks = |id| Some(self.view.network(id).state);
        let found = resolved(exposure(&directory.state, &networks, &target, self.now()))?;
        let entry = |entry: netstate_model::Exposure| pb::ExposureEntry {
            network: directory
                .state
                .network(entry.network)
                .map_or_else(|| entry.network.to_string(), |network| network.name.to_string()),
            selector: entry.selector.map(|selector| selector.to_string()).unwrap_or_default(),
            endpoints: entry.endpoints,
            connection: entry.connection.map(|connection| wire::connection_to_proto(&connection, &directory.state)),
        };
        Ok(Response::new(pb::ExposureResponse {
            entries: found.into_iter().map(entry).collect(),
            positions: self.positions(&directory, &[target]),
        }))
    }

    async fn convergence(
        &self,
        request: Request<pb::ConvergenceRequest>,
    ) -> Result<Response<pb::ConvergenceResponse>, Status> {
        let what = request.into_inner().what;
        let what =
            what.ok_or_else(|| Status::invalid_argument("say what is to be in force: a connection or a position"))?;
        let (question, hosts) = self.concerned(what).await?;
        let mut found: BTreeMap<HostId, Option<HostProgress>> = hosts.into_iter().map(|host| (host, None)).collect();
        for (_, answer) in self.ask_all::<Vec<HostProgress>>(&Call::Convergence(question)).await {
            for progress in answer.into_iter().flatten() {
                if progress.concerned || found.contains_key(&progress.host) {
                    found.insert(progress.host, Some(progress));
                }
            }
        }
        let directory = self.view.directory().state;
        // Only who waits for hosts that are not there needs to know for how long.
        let silent = found.values().any(Option::is_none);
        let heard = if silent { self.heard().await } else { Vec::new() };
        let silent_micros = |host, there| if there { 0 } else { presence(&heard, host).to_proto().0 };
        let hosts: Vec<_> = found
            .into_iter()
            .map(|(host, progress)| pb::HostConvergence {
                silent_micros: silent_micros(host, progress.is_some()),
                host: directory.host(host).map_or_else(|| host.to_string(), |host| host.name.to_string()),
                programmed: progress.as_ref().is_some_and(|progress| progress.programmed),
                connected: progress.is_some(),
                problem: progress.map(|progress| progress.problem).unwrap_or_default(),
            })
            .collect();
        let programmed = hosts.iter().filter(|host| host.programmed).count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(pb::ConvergenceResponse {
            programmed: count(programmed),
            pending: count(hosts.len() - programmed),
            hosts,
        }))
    }

    async fn audit_log(&self, request: Request<pb::AuditLogRequest>) -> Result<Response<Self::AuditLogStream>, Status> {
        self.audit_log_stream(request.into_inner()).await
    }

    async fn audit_verify(
        &self,
        _request: Request<pb::AuditVerifyRequest>,
    ) -> Result<Response<Self::AuditVerifyStream>, Status> {
        Ok(self.audit_verify_stream())
    }
}
