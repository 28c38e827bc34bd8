//! Endpoints: attached, detached, listed, put into quarantine.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures::Stream;
use netstate_model::{Attach, Endpoint, NetworkChange, NetworkCommand, NetworkId, Selector, limits};
use netstate_proto::v1::{self as pb, endpoints_server::Endpoints};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{Services, network_id, resolved};
use crate::{
    execute::{Changes, Command, Done, ExecuteError, Kind},
    keyspaces::Home,
    view::{DirectoryAt, NetworkAt},
    wire,
};

/// Endpoints in one message of a list.
const CHUNK: usize = 1000;

/// One network's part of a request: the name it was asked for under, and its items or why they are refused.
struct Part<T> {
    network: String,
    items: Result<(NetworkId, Vec<T>), Status>,
}

/// Splits a request by network, in order of first mention. A network one of whose items is refused is refused whole.
fn split<I, T>(
    items: Vec<I>,
    network: impl Fn(&I) -> &str,
    resolve: impl Fn(&str) -> Result<NetworkId, Status>,
    parse: impl Fn(NetworkId, I) -> Result<T, Status>,
) -> Vec<Part<T>> {
    let mut parts: Vec<Part<T>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for item in items {
        let name = network(&item);
        let place = places.get(name).copied().unwrap_or_else(|| {
            places.insert(name.to_string(), parts.len());
            parts.push(Part { network: name.to_string(), items: resolve(name).map(|id| (id, Vec::new())) });
            parts.len() - 1
        });
        let part = &mut parts[place];
        if let Ok((id, parsed)) = &mut part.items {
            match parse(*id, item) {
                Ok(item) => parsed.push(item),
                Err(status) => part.items = Err(status),
            }
        }
    }
    parts
}

fn refusal(code: Code, message: String) -> Option<pb::Refusal> {
    Some(pb::Refusal { code: code.into(), message })
}

fn attached(done: &Done) -> impl Iterator<Item = &Arc<Endpoint>> {
    let changes = match &done.changes {
        Changes::Network(changes) => changes.as_slice(),
        Changes::Directory(_) => &[],
    };
    changes.iter().filter_map(|change| match change {
        NetworkChange::Endpoint(endpoint) => Some(endpoint),
        _ => None,
    })
}

/// How many endpoints a command detached.
fn gone(done: &Done) -> u32 {
    let Changes::Network(changes) = &done.changes else { return 0 };
    let gone = changes.iter().filter(|change| matches!(change, NetworkChange::EndpointGone(_)));
    u32::try_from(gone.count()).unwrap_or(u32::MAX)
}

impl Services {
    async fn attach_part(&self, part: Part<Attach>, origin: &wire::Origin) -> pb::AttachResult {
        let network = part.network;
        let none = |refusal| pb::AttachResult { network: network.clone(), refusal, ..pb::AttachResult::default() };
        let (id, items) = match part.items {
            Ok(items) => items,
            Err(status) => return none(refusal(status.code(), status.message().into())),
        };
        let count = items.len() as u64;
        match self.try_execute(Command::Network(id, NetworkCommand::Attach(items)), origin).await {
            Ok(done) => {
                self.counts.attached(count);
                let directory = self.view.directory().state;
                let endpoints = attached(&done).map(|endpoint| wire::endpoint_to_proto(endpoint, &directory)).collect();
                let position = Some(wire::position(Home::Network(id), done.revision));
                pb::AttachResult { network, endpoints, position, refusal: None }
            }
            Err(error) => {
                let (code, message) = wire::failure(&error);
                none(refusal(code, message))
            }
        }
    }

    async fn detach_part(&self, part: Part<String>, origin: &wire::Origin) -> pb::DetachResult {
        let network = part.network;
        let none = |refusal| pb::DetachResult { network: network.clone(), refusal, ..pb::DetachResult::default() };
        let (id, names) = match part.items {
            Ok(items) => items,
            Err(status) => return none(refusal(status.code(), status.message().into())),
        };
        let numbers = |now: &NetworkAt| {
            let number = |name: &String| resolved(now.state.resolve(name).map(Endpoint::number));
            names.iter().map(number).collect::<Result<Vec<_>, _>>()
        };
        let detach = |numbers| Command::Network(id, NetworkCommand::Detach(numbers));
        // As it is here first: numbers are never used again, so where others are meant by now the leader knows none of these.
        let at_once = match numbers(&self.view.network(id)) {
            Ok(numbers) => Some(self.try_execute(detach(numbers), origin).await),
            Err(_) => None,
        };
        let done = match at_once {
            None | Some(Err(ExecuteError::Refused { kind: Kind::NotFound, .. })) => {
                match self.network(id).await.and_then(|now| numbers(&now)) {
                    Ok(numbers) => self.try_execute(detach(numbers), origin).await,
                    Err(status) => match self.repeated(detach(Vec::new()), origin).await {
                        Some(done) => Ok(done),
                        None => return none(refusal(status.code(), status.message().into())),
                    },
                }
            }
            Some(done) => done,
        };
        match done {
            Ok(done) => {
                let position = Some(wire::position(Home::Network(id), done.revision));
                pb::DetachResult { network, detached: gone(&done), position, refusal: None }
            }
            Err(error) => {
                let (code, message) = wire::failure(&error);
                none(refusal(code, message))
            }
        }
    }

    /// A single network's failure is the whole request's, so that clients retry it as such.
    fn lone_failure(refusals: &[Option<&pb::Refusal>]) -> Result<(), Status> {
        match refusals {
            [Some(refusal)] if matches!(Code::from(refusal.code), Code::Unavailable | Code::DeadlineExceeded) => {
                Err(Status::new(Code::from(refusal.code), refusal.message.clone()))
            }
            _ => Ok(()),
        }
    }
}

fn check_count(count: usize, limit: usize) -> Result<(), Status> {
    match count {
        0 => Err(Status::invalid_argument("the request names no endpoint")),
        count if count > limit => {
            let text = format!("{count} endpoints in one request, {limit} are allowed; send several requests");
            Err(Status::invalid_argument(text))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl Endpoints for Services {
    type ListEndpointsStream = Pin<Box<dyn Stream<Item = Result<pb::ListEndpointsResponse, Status>> + Send>>;

    async fn attach(&self, request: Request<pb::AttachRequest>) -> Result<Response<pb::AttachResponse>, Status> {
        let request = request.into_inner();
        check_count(request.endpoints.len(), limits::ATTACH_MAX)?;
        let origin = wire::origin(request.origin)?;
        let known = |directory: &DirectoryAt| {
            let unknown = request.endpoints.iter().find(|item| {
                directory.state.resolve_network(&item.network).is_err()
                    || directory.state.resolve_host_for_endpoints(&item.host).is_err()
            });
            unknown.is_none()
        };
        let mut directory = self.view.directory();
        if !known(&directory) {
            directory = self.directory().await?;
        }
        let parts = split(
            request.endpoints,
            |item| &item.network,
            |name| network_id(&directory, name),
            |_, item| wire::attach(item, &directory.state),
        );
        let results = parts.into_iter().map(|part| self.attach_part(part, &origin));
        let results = futures::future::join_all(results).await;
        Self::lone_failure(&results.iter().map(|result| result.refusal.as_ref()).collect::<Vec<_>>())?;
        Ok(Response::new(pb::AttachResponse { results }))
    }

    async fn detach(&self, request: Request<pb::DetachRequest>) -> Result<Response<pb::DetachResponse>, Status> {
        let request = request.into_inner();
        check_count(request.endpoints.len(), limits::DETACH_MAX)?;
        let origin = wire::origin(request.origin)?;
        let mut directory = self.view.directory();
        if request.endpoints.iter().any(|item| directory.state.resolve_network(&item.network).is_err()) {
            directory = self.directory().await?;
        }
        let resolve = |name: &str| network_id(&directory, name);
        let parts = split(request.endpoints, |item| &item.network, resolve, |_, item| Ok(item.name));
        let results = parts.into_iter().map(|part| self.detach_part(part, &origin));
        let results = futures::future::join_all(results).await;
        Self::lone_failure(&results.iter().map(|result| result.refusal.as_ref()).collect::<Vec<_>>())?;
        Ok(Response::new(pb::DetachResponse { results }))
    }

    async fn list_endpoints(
        &self,
        request: Request<pb::ListEndpointsRequest>,
    ) -> Result<Response<Self::ListEndpointsStream>, Status> {
        let request = request.into_inner();
        let selector = wire::selector(&request.selector)?;
        let directory = self.directory().await?;
        let host = match request.host.as_str() {
            "" => None,
            name => Some(resolved(directory.state.resolve_host(name))?.id),
        };
        let networks = match request.network.as_str() {
            "" => {
                self.confirm_all().await?;
                directory.state.networks().map(|network| network.id).collect()
            }
            name => {
                let id = network_id(&directory, name)?;
                self.confirm(Home::Network(id)).await?;
                vec![id]
            }
        };
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        let (chunks, outgoing) = mpsc::channel(1);
        let listing = Listing { services: self.clone(), directory, networks, host, selector, limit };
        tokio::spawn(listing.run(chunks));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn get_endpoint(
        &self,
        request: Request<pb::GetEndpointRequest>,
    ) -> Result<Response<pb::GetEndpointResponse>, Status> {
        let (id, now) = self.endpoint(&request.into_inner().endpoint).await?;
        let directory = self.view.directory().state;
        let endpoint = now.state.endpoint(id.number()).map(|endpoint| wire::endpoint_to_proto(endpoint, &directory));
        let position = Some(wire::position(Home::Network(id.network()), now.revision));
        Ok(Response::new(pb::GetEndpointResponse { endpoint, position }))
    }

    async fn set_quarantine(
        &self,
        request: Request<pb::SetQuarantineRequest>,
    ) -> Result<Response<pb::SetQuarantineResponse>, Status> {
        let request = request.into_inner();
        let origin = wire::origin(request.origin)?;
        let (id, now) = self.endpoint(&request.endpoint).await?;
        let command = NetworkCommand::Quarantine { endpoint: id.number(), on: request.quarantined };
        let done = self.execute(Command::Network(id.network(), command), &origin).await?;
        let directory = self.view.directory().state;
        let endpoint = attached(&done).next().map(|endpoint| &**endpoint).or(now.state.endpoint(id.number()));
        Ok(Response::new(pb::SetQuarantineResponse {
            endpoint: endpoint.map(|endpoint| wire::endpoint_to_proto(endpoint, &directory)),
            position: Some(wire::position(Home::Network(id.network()), done.revision)),
        }))
    }
}

/// A list on its way: snapshots taken one network at a time, sent as fast as they are read.
struct Listing {
    services: Services,
    directory: DirectoryAt,
    networks: Vec<NetworkId>,
    host: Option<netstate_model::HostId>,
    selector: Option<Selector>,
    limit: usize,
}

impl Listing {
    async fn run(self, chunks: mpsc::Sender<Result<pb::ListEndpointsResponse, Status>>) {
        let mut chunk = Vec::new();
        let mut left = self.limit;
        for id in &self.networks {
            let state = self.services.view.network(*id).state;
            let mut after = None;
            loop {
                let page = self.page(&state, after, CHUNK.min(left));
                let Some(last) = page.last else { break };
                after = Some(last);
                left -= page.endpoints.len();
                chunk.extend(page.endpoints);
                if chunk.len() >= CHUNK && !send(&chunks, &mut chunk).await {
                    return;
                }
                if left == 0 {
                    break;
                }
            }
        }
        if !chunk.is_empty() {
            send(&chunks, &mut chunk).await;
        }
    }

    /// Endpoints behind a number, as far as they are asked for.
    fn page(&self, state: &netstate_model::NetworkState, after: Option<u32>, limit: usize) -> Page {
        let chosen = |endpoint: &&Endpoint| {
            self.host.is_none_or(|host| endpoint.host == host)
                && self.selector.as_ref().is_none_or(|selector| selector.matches(&endpoint.labels))
        };
        let render = |endpoint: &Endpoint| wire::endpoint_to_proto(endpoint, &self.directory.state);
        let mut page = Page::default();
        let mut take = |endpoint: &Endpoint| {
            page.last = Some(endpoint.number());
            if chosen(&endpoint) {
                page.endpoints.push(render(endpoint));
            }
            page.endpoints.len() < limit
        };
        match after {
            None => state.endpoints().all(&mut take),
            Some(number) => state.endpoints_after(number).all(&mut take),
        };
        page
    }
}

#[derive(Default)]
struct Page {
    endpoints: Vec<pb::Endpoint>,
    /// The last endpoint looked at.
    last: Option<u32>,
}

async fn send(chunks: &mpsc::Sender<Result<pb::ListEndpointsResponse, Status>>, chunk: &mut Vec<pb::Endpoint>) -> bool {
    chunks.send(Ok(pb::ListEndpointsResponse { endpoints: std::mem::take(chunk) })).await.is_ok()
}
