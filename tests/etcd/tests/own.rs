//! What this store promises beyond etcd, or where etcd itself goes wrong: watches that end and begin on one stream, places
//! in line that are given up, and who may read the store's own keyspaces.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_proto::etcdserverpb as pb;
use etcd_proto::v3electionpb::{CampaignRequest, LeaderRequest, ResignRequest, election_client::ElectionClient};
use etcd_tests::client::Client;
use etcd_tests::server::{Kind, Server};
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming, metadata::MetadataValue};

const PATIENCE: Duration = Duration::from_secs(20);

/// One stream of watches.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    async fn open(client: &mut Client, token: Option<&str>) -> Result<Self> {
        let (requests, asked) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(asked));
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse()?);
        }
        let responses = client.watch.watch(request).await?.into_inner();
        Ok(Stream { requests, responses })
    }

    async fn ask(&self, request: RequestUnion) -> Result<()> {
        Ok(self.requests.send(pb::WatchRequest { request_union: Some(request) }).await?)
    }

    async fn create(&self, key: &'static str, start_revision: i64) -> Result<()> {
        let create = pb::WatchCreateRequest { key: key.into(), start_revision, ..Default::default() };
        self.ask(RequestUnion::CreateRequest(create)).await
    }

    async fn next(&mut self) -> Result<pb::WatchResponse> {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await.context("nothing comes")??;
        next.context("the stream ended")
    }
}

async fn put(client: &mut Client, key: &'static str) -> Result<i64> {
    let answer = client.kv.put(pb::PutRequest { key: key.into(), ..Default::default() }).await?;
    Ok(answer.into_inner().header.unwrap_or_default().revision)
}

/// A watch that the server ended is cancelled by its client as well, later, when another watch is where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_late_cancels_nobody_else() -> Result<()> {
    let server = Server::start(Kind::Netstate).await?;
    let mut client = Client::new(server.address())?;
    put(&mut client, "a").await?;
    let revision = put(&mut client, "a").await?;
    client.kv.compact(pb::CompactionRequest { revision, ..Default::default() }).await?;
    let mut stream = Stream::open(&mut client, None).await?;
    stream.create("a", 1).await?;
    let ended = loop {
        let response = stream.next().await?;
        if response.canceled {
            break response;
        }
    };
    ensure!(ended.compact_revision == revision, "{ended:?}");
    stream.create("b", 0).await?;
    let created = stream.next().await?;
    ensure!(created.created && created.watch_id != ended.watch_id, "{created:?}");
    stream.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: ended.watch_id })).await?;
    stream.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await?;
    while stream.next().await?.watch_id != -1 {}
    let revision = put(&mut client, "b").await?;
    let event = stream.next().await?;
    let told = event.events.first().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    ensure!(event.watch_id == created.watch_id && told == Some(revision), "{event:?}");
    Ok(())
}

/// What a permission allowed ends with it, and is not to be had again on the stream that was opened with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_permission() -> Result<()> {
    let server = Server::start(Kind::Netstate).await?;
    let mut client = Client::new(server.address())?;
    let auth = &mut client.auth;
    for name in ["root", "alice"] {
        let (name, password) = (name.to_owned(), "secret".to_owned());
        auth.user_add(pb::AuthUserAddRequest { name, password, ..Default::default() }).await?;
    }
    auth.role_add(pb::AuthRoleAddRequest { name: "reader".into() }).await?;
    let perm = Some(etcd_proto::authpb::Permission { perm_type: 0, key: "a".into(), ..Default::default() });
    auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "reader".into(), perm }).await?;
    for (user, role) in [("root", "root"), ("alice", "reader")] {
        auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() }).await?;
    }
    auth.auth_enable(pb::AuthEnableRequest {}).await?;
    let login = |name: &str| pb::AuthenticateRequest { name: name.into(), password: "secret".into() };
    let root = auth.authenticate(login("root")).await?.into_inner().token;
    let alice = auth.authenticate(login("alice")).await?.into_inner().token;

    let mut stream = Stream::open(&mut client, Some(&alice)).await?;
    stream.create("a", 0).await?;
    ensure!(stream.next().await?.created);
    let mut revoke = Request::new(pb::AuthUserRevokeRoleRequest { name: "alice".into(), role: "reader".into() });
    revoke.metadata_mut().insert("token", root.parse::<MetadataValue<_>>()?);
    client.auth.user_revoke_role(revoke).await?;
    let ended = stream.next().await?;
    ensure!(ended.canceled && ended.cancel_reason == "etcdserver: permission denied", "{ended:?}");
    stream.create("a", 0).await?;
    let refused = stream.next().await?;
    ensure!(refused.canceled && refused.cancel_reason.contains("permission denied"), "{refused:?}");
    Ok(())
}

/// Who leaves while waiting leaves no place behind that would be elected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_campaigning_is_not_elected() -> Result<()> {
    let server = Server::start(Kind::Netstate).await?;
    let mut client = Client::new(server.address())?;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address()))?.connect().await?;
    let mut elections = ElectionClient::new(channel);
    let campaign = |value: &'static str| CampaignRequest { name: "e".into(), value: value.into(), lease: 0 };
    let first = elections.campaign(campaign("first")).await?.into_inner().leader;
    let all = || pb::RangeRequest { key: "e/".into(), range_end: "e0".into(), ..Default::default() };
    let mut second = elections.clone();
    let waiting = tokio::spawn(async move { second.campaign(campaign("second")).await.map(drop) });
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.kv.range(all()).await?.into_inner().count < 2 {
        ensure!(tokio::time::Instant::now() < deadline && !waiting.is_finished(), "the second never waits");
    }
    waiting.abort();
    while client.kv.range(all()).await?.into_inner().count > 1 {
        ensure!(tokio::time::Instant::now() < deadline, "its place stays");
    }
    elections.resign(ResignRequest { leader: first }).await?;
    let nobody = elections.leader(LeaderRequest { name: "e".into() }).await.err().context("somebody leads")?;
    ensure!(nobody.message() == "election: no leader", "{nobody:?}");
    Ok(())
}

/// Tenants have keyspaces of their own, by port or by name, and the store's own are for the administrators of the client
/// port, to be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_are_apart() -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listen = format!("127.0.0.1:{port}");
    let server = Server::start_with(Kind::Netstate, &["--etcd-listen", &format!("{listen}=tenant")]).await?;
    let (mut own, mut tenant) = (Client::new(server.address())?, Client::new(&listen)?);
    put(&mut own, "default's").await?;
    put(&mut tenant, "tenant's").await?;
    let all = |keyspace: Option<&'static str>| {
        let mut request =
            Request::new(pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() });
        if let Some(keyspace) = keyspace {
            request.metadata_mut().insert("netstate-keyspace", MetadataValue::from_static(keyspace));
        }
        request
    };
    let keys = |answer: pb::RangeResponse| answer.kvs.into_iter().map(|kv| kv.key).collect::<Vec<_>>();
    for (client, named, expected) in [(&mut own, None, "default's"), (&mut tenant, None, "tenant's")] {
        ensure!(keys(client.kv.range(all(named)).await?.into_inner()) == [expected], "{expected}");
    }
    ensure!(keys(own.kv.range(all(Some("tenant"))).await?.into_inner()) == ["tenant's"]);
    own.kv.range(all(Some("netstate/directory"))).await?;
    let refused =
        tenant.kv.range(all(Some("netstate/directory"))).await.err().context("a tenant reads the directory")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused:?}");
    let mut write = Request::new(pb::PutRequest { key: "a".into(), ..Default::default() });
    write.metadata_mut().insert("netstate-keyspace", MetadataValue::from_static("netstate/directory"));
    let refused = own.kv.put(write).await.err().context("the directory is written")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused:?}");
    Ok(())
}

/// Whoever asks for more and more and reads none of the answers is held up; whoever shares the connection is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_does_not_read_is_held_up() -> Result<()> {
    const ASKED_MAX: usize = 200_000;
    let server = Server::start(Kind::Netstate).await?;
    let mut client = Client::new(server.address())?;
    let greedy = Stream::open(&mut client, None).await?;
    let create = pb::WatchCreateRequest { key: "z".into(), range_end: "a".into(), ..Default::default() };
    let asked = || pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create.clone())) };
    let mut count = 0;
    // Until requests wait on this side: the server takes no more.
    while let Ok(sent) = tokio::time::timeout(Duration::from_secs(2), greedy.requests.send(asked())).await {
        sent?;
        count += 1;
        ensure!(count < ASKED_MAX, "the server takes {count} requests whose answers nobody reads");
    }
    let mut other = Stream::open(&mut client, None).await?;
    other.create("b", 0).await?;
    ensure!(other.next().await?.created);
    let revision = put(&mut client, "b").await?;
    ensure!(other.next().await?.header.unwrap_or_default().revision == revision);
    Ok(())
}
