//! One host's stream: its reports come in, frames go out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kv_core::Revision;
use netstate_model::{ConnectionId, NetworkId};
use netstate_proto::v1::{self as pb, host_report::Report};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    frame::{self, Held, HeldNetwork},
    hub::{Hub, Marks, Stream},
};
use crate::{keyspaces::Home, view::View};

/// Frames handed to the transport and not taken by it yet. While it is busy, marks gather and the next frame grows.
const FRAMES: usize = 1;

/// How long a host may take for its first report.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// Networks and connections that a hello may name.
const HAVE_MAX: usize = 1_000_000;

/// What goes out.
pub(crate) type Frames = mpsc::Receiver<Result<pb::ScopeFrame, Status>>;

/// Takes a host's stream in and serves it in a task of its own.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    view: Arc<View>,
    mut reports: Streaming<pb::HostReport>,
    stop: CancellationToken,
) -> Result<Frames, Status> {
    let first = tokio::time::timeout(HELLO_PATIENCE, reports.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello in time; send one first"))??;
    let Some(Report::Hello(hello)) = first.and_then(|report| report.report) else {
        return Err(Status::invalid_argument("the first report has to be a hello that says which host this is"));
    };
    let host = view
        .directory()
        .state
        .resolve_host(&hello.host)
        .map(|host| host.id)
        .map_err(|refusal| Status::not_found(format!("{refusal}; register the host first")))?;
    let mut held = parse_hello(&hello)?;
    if held.directory < view.floor(Home::Directory) {
        // It comes from before a restore: neither its revisions nor the ids that it knows mean here what they did there.
        held.start_over();
    }
    // What the host has seen, this node must have: it would otherwise be taken back in time.
    let caught_up = async {
        view.reached(Home::Directory, held.directory).await;
        for (id, network) in &held.networks {
            view.reached(Home::Network(*id), network.revision.unwrap_or_default()).await;
        }
    };
    if tokio::time::timeout(HELLO_PATIENCE, caught_up).await.is_err() {
        return Err(Status::unavailable("this node has not got as far as what the host has seen; try another one"));
    }
    let stream = hub
        .enter(host)
        .ok_or_else(|| Status::resource_exhausted("this node serves too many hosts already; try another one"))?;
    let (frames, outgoing) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        tokio::select! {
            () = write(&hub, &view, &stream, held, &frames) => {}
            () = read(&stream, &mut reports) => {}
            () = frames.closed() => {}
            () = stop.cancelled() => {
                // The host learns it and goes elsewhere.
                let _ = frames.try_send(Err(Status::unavailable("this node is shutting down; go to another one")));
            }
        }
        hub.leave(&stream);
    });
    Ok(outgoing)
}

/// What the host says that it holds.
fn parse_hello(hello: &pb::host_report::Hello) -> Result<Held, Status> {
    if hello.networks.len() + hello.connections.len() > HAVE_MAX {
        return Err(Status::invalid_argument(format!("a hello names at most {HAVE_MAX} networks and connections")));
    }
    let mut held = Held { directory: Revision::new(hello.directory_revision), ..Held::default() };
    for have in &hello.networks {
        let id: NetworkId = have.network_id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let revision = Some(Revision::new(have.revision));
        let locals = revision.filter(|_| have.local);
        held.networks.insert(id, HeldNetwork { revision, local: have.local, locals });
    }
    for id in &hello.connections {
        let id: ConnectionId = id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        held.connections.insert(id, [None, None]);
    }
    Ok(held)
}

async fn read(stream: &Stream, reports: &mut Streaming<pb::HostReport>) {
    while let Ok(Some(report)) = reports.message().await {
        match report.report {
            Some(Report::Ack(ack)) => acknowledge(stream, &ack),
            // A second hello, or something newer than this server: whoever sends it is not what we serve.
            Some(Report::Hello(_)) | None => return,
        }
    }
}

fn acknowledge(stream: &Stream, ack: &pb::host_report::Ack) {
    let mut progress = stream.progress.lock();
    if ack.frame > progress.last_frame || ack.frame < progress.acked {
        return;
    }
    progress.problem = ack.problem.chars().take(1000).collect();
    if progress.problem.is_empty() {
        progress.acked = ack.frame;
        let (acked, scope) = (progress.acked, progress.scope.clone());
        progress.of_network.retain(|id, frame| *frame > acked || scope.networks.contains_key(id));
        progress.of_connection.retain(|id, frame| *frame > acked || scope.connections.contains(id));
    }
}

async fn write(
    hub: &Arc<Hub>,
    view: &View,
    stream: &Arc<Stream>,
    mut held: Held,
    frames: &mpsc::Sender<Result<pb::ScopeFrame, Status>>,
) {
    // Marks first, then what they stand for: what is marked meanwhile is looked at again.
    let mut first = true;
    loop {
        // Room first, too: what is sent is then as new as can be.
        let Ok(room) = frames.reserve().await else { return };
        stream.wake.notified().await;
        if !hub.current(stream) {
            room.send(Err(Status::aborted("the host has opened another stream")));
            return;
        }
        let mut marks = std::mem::take(&mut *stream.marks.lock());
        if first {
            resume(view, &held, &mut marks);
        }
        if marks.is_empty() && !first {
            continue;
        }
        if let Some(frame) = advance(hub, view, stream, &mut held, &marks, first) {
            hub.frames.fetch_add(1, Ordering::Relaxed);
            room.send(Ok(frame));
        }
        first = false;
    }
}

/// Marks what a host has to be told that comes with something held.
pub(super) fn resume(view: &View, held: &Held, marks: &mut Marks) {
    marks.rescope = true;
    marks.networks.extend(held.networks.keys());
    if held.directory < view.directory().moved {
        marks.whole.extend(held.networks.keys());
    }
}

/// The next frame, with everything noted that others ask about.
pub(super) fn advance(
    hub: &Arc<Hub>,
    view: &View,
    stream: &Arc<Stream>,
    held: &mut Held,
    marks: &Marks,
    first: bool,
) -> Option<pb::ScopeFrame> {
    let mut next = frame::next(view, &hub.encoded, stream.host, held, marks);
    hub.rescoped(stream, &next.scope);
    // What came into scope just now was not marked for this stream when it changed since the snapshot.
    let newer = |id: &&NetworkId| {
        held.networks.get(*id).and_then(|network| network.revision) < Some(view.revision(Home::Network(**id)))
    };
    let missed: Vec<_> = next.networks.iter().filter(newer).copied().collect();
    let rescope = view.directory_revision() > held.directory;
    if rescope || !missed.is_empty() {
        stream.mark(|marks| {
            marks.rescope |= rescope;
            marks.networks.extend(missed);
        });
    }
    if first {
        next.frame.complete = true;
        next.frame.host_id = stream.host.to_string();
    }
    let mut progress = stream.progress.lock();
    progress.directory = held.directory;
    if next.says_nothing() && !first {
        return None;
    }
    progress.last_frame += 1;
    let number = progress.last_frame;
    next.frame.frame = number;
    progress.of_network.extend(next.networks.iter().map(|id| (*id, number)));
    progress.of_connection.extend(next.connections.iter().map(|id| (*id, number)));
    Some(next.frame)
}
