//! Where frames come from: a server's watch, or a test.

use std::{collections::BTreeMap, future::Future, net::IpAddr, pin::Pin, time::Duration};

use netstate_client::{Client, ClientError, HostWatch, ReceivedFrame, WatchEvent};
use netstate_proto::v1::{Origin, RegisterHostRequest};
use tonic::Code;

use crate::scope::HostScope;

/// Before a registration that was refused is tried again: somebody may have removed what was in its way.
const REGISTER_PAUSE: Duration = Duration::from_secs(2);

/// Gives a host's frames and takes its acks.
pub trait ScopeSource: Send {
    /// The next frame. `scope` is what the host holds now, for when a stream has to begin anew. Must be cancel safe.
    fn next(&mut self, scope: &HostScope) -> impl Future<Output = ReceivedFrame> + Send;

    /// Reports a frame as in force, or, with a problem, as not.
    fn ack(&mut self, stream: u64, frame: u64, problem: String);

    /// Begins a new stream: frames of the present one can't be used any more.
    fn reopen(&mut self);
}

/// What a host registers itself as.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its name.
    pub host: String,
    /// Its underlay address.
    pub underlay: IpAddr,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A cluster's scoped watch, by a host that registers itself first.
pub struct Watch {
    client: Client,
    registration: Registration,
    registered: bool,
    /// Kept across cancellations, so that registering makes progress whatever else happens on the host.
    registering: Option<Registering>,
    watch: HostWatch,
}

type Registering = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>;

impl Watch {
    /// A watch that connects when it is first asked.
    pub fn new(client: Client, registration: Registration) -> Self {
        let watch = client.watch_host();
        Watch { client, registration, registered: false, registering: None, watch }
    }

    fn register(&self) -> Registering {
        let Registration { host, underlay, labels } = self.registration.clone();
        let request = RegisterHostRequest {
            origin: Some(Origin {
                actor: format!("agent/{host}"),
                reason: "agent started".to_owned(),
                ..Origin::default()
            }),
            name: host,
            underlay: underlay.to_string(),
            labels: labels.into_iter().collect(),
        };
        let client = self.client.clone();
        Box::pin(async move { client.register_host(request).await.map(drop) })
    }
}

impl ScopeSource for Watch {
    async fn next(&mut self, scope: &HostScope) -> ReceivedFrame {
        loop {
            if !self.registered {
                let registering = match &mut self.registering {
                    Some(registering) => registering,
                    None => {
                        let begun = self.register();
                        self.registering.insert(begun)
                    }
                };
                let outcome = registering.await;
                self.registering = None;
                match outcome {
                    Ok(()) => self.registered = true,
                    Err(error) => {
                        tracing::warn!(%error, "host not registered; going on with what is held");
                        // Its calls end by a deadline, but a refusal comes at once, and would come again.
                        let again = self.register();
                        self.registering = Some(Box::pin(async move {
                            tokio::time::sleep(REGISTER_PAUSE).await;
                            again.await
                        }));
                    }
                }
                continue;
            }
            let host = &self.registration.host;
            match self.watch.next(|| scope.hello(host)).await {
                WatchEvent::Frame(frame) => return frame,
                WatchEvent::Lost { address, error } => {
                    tracing::warn!(%address, %error, "watch lost; going on with what is held");
                    self.registered = error.code() != Some(Code::NotFound);
                }
            }
        }
    }

    fn ack(&mut self, stream: u64, frame: u64, problem: String) {
        self.watch.ack(stream, frame, problem);
    }

    fn reopen(&mut self) {
        self.watch.reopen();
    }
}
