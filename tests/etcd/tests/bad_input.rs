//! What no client should send is refused as etcd refuses it, and changes nothing for those who come after.

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd_proto::{authpb, etcdserverpb as pb};
use etcd_tests::apply::System;
use etcd_tests::client::Client;
use etcd_tests::generate::Generator;
use etcd_tests::operation::Request;
use etcd_tests::pair::Pair;
use etcd_tests::response::Response;
use etcd_tests::rpcs::{Drawn, LONGER_THAN_MEMORY, MALFORMED, RPCS};
use etcd_tests::run::Plan;
use etcd_tests::server::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_messages() -> Result<()> {
    let mut pair = Pair::start(0).await?;
    // An empty message on a stream of watches asks for nothing and is not answered.
    for rpc in RPCS.iter().filter(|rpc| !rpc.path.ends_with("/Watch")) {
        pair.apply_raw(rpc.path, Bytes::new()).await?;
    }
    println!("{}", pair.summary());
    still_serves(&mut pair).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages() -> Result<()> {
    let mut pair = Pair::start(0).await?;
    for rpc in RPCS {
        for (what, body) in MALFORMED {
            let response = pair.apply_raw(rpc.path, Bytes::from_static(body)).await.context(what)?;
            assert!(!response.is_answer(), "{} takes {what}", rpc.path);
        }
    }
    still_serves(&mut pair).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_random_fields() -> Result<()> {
    let plan = Plan::new(300..302, 2000)?;
    for seed in plan.seeds {
        println!("seed {seed}, {} messages", plan.operations);
        let mut pair = Pair::start(seed).await?;
        let mut generator = Generator::new(seed);
        for _ in 0..plan.operations {
            let rpc = RPCS[generator.below(RPCS.len())];
            if rpc.drawn != Drawn::None {
                pair.apply_raw(rpc.path, generator.body(rpc.drawn)).await?;
            }
        }
        println!("{}", pair.summary());
        still_serves(&mut pair).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contradictory_and_extreme_fields() -> Result<()> {
    let mut pair = Pair::start(0).await?;
    pair.apply(Request::Put(pb::PutRequest { key: "a".into(), ..Default::default() })).await?;
    for request in ranges().chain(members()).chain(alarms()).chain(watches()).chain(roles()) {
        pair.apply(request).await?;
    }
    println!("{}", pair.summary());
    still_serves(&mut pair).await
}

/// etcd 3.4 ends itself on each of these, or grants what means nothing and later versions refuse: there is no answer to
/// compare with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_does_not_survive_is_refused() -> Result<()> {
    if Kind::subject()? == Kind::Etcd {
        return Ok(());
    }
    let mut subject = System::start(Kind::Netstate).await?;
    let name = "reader".to_owned();
    let added = subject.apply(&Request::RoleAdd(pb::AuthRoleAddRequest { name: name.clone() }).into()).await;
    assert!(added.is_answer(), "{added}");
    let key = Bytes::from_static(b"a");
    let requests = [
        Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name, perm: None }),
        Request::Range(pb::RangeRequest { key: key.clone(), sort_order: 1, sort_target: -1, ..Default::default() }),
        Request::Range(pb::RangeRequest { key, sort_order: 2, sort_target: 5, ..Default::default() }),
        Request::Alarm(pb::AlarmRequest { action: 9, ..Default::default() }),
        permission(9, "a", ""),
        permission(-1, "b", ""),
        permission(0, "", ""),
        permission(0, "b", "a"),
    ];
    for request in requests {
        let response = subject.apply(&request.clone().into()).await;
        assert!(is_refused_with(&response, Code::InvalidArgument), "{request:?} is answered {response}");
    }
    for rpc in RPCS {
        let response = subject.apply_raw(rpc.path, Bytes::from_static(LONGER_THAN_MEMORY)).await;
        assert!(is_refused_with(&response, Code::Internal), "{} is answered {response}", rpc.path);
    }
    let roles = subject.apply(&Request::RoleList(pb::AuthRoleListRequest {}).into()).await;
    assert!(roles.is_answer(), "{roles}");
    Ok(())
}

fn is_refused_with(response: &Response, expected: Code) -> bool {
    matches!(response, Response::Refusal { code, .. } if *code == expected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http() -> Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame_of_nothing = [0xff; 64];
    let oversized_headers = [0xff, 0xff, 0xff, 0x01, 0x05, 0, 0, 0, 1];
    let mut pair = Pair::start(0).await?;
    for system in [&pair.reference, &pair.subject] {
        for body in [&b"nonsense\r\n\r\n"[..], &frame_of_nothing, &oversized_headers, &[]] {
            for start in [PREFACE, b""] {
                let mut connection = TcpStream::connect(system.address()).await?;
                connection.write_all(&[start, body].concat()).await?;
                connection.shutdown().await?;
                // Until the server ends the connection, with a last word or without.
                let mut last_words = Vec::new();
                let end = connection.read_to_end(&mut last_words);
                let ended = tokio::time::timeout(std::time::Duration::from_secs(20), end).await;
                assert!(ended.is_ok(), "{} keeps a connection with {body:?}", system.address());
            }
        }
        let mut client = Client::new(system.address())?;
        client.kv.range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await?;
    }
    still_serves(&mut pair).await
}

async fn still_serves(pair: &mut Pair) -> Result<()> {
    let put = Request::Put(pb::PutRequest { key: "last".into(), prev_kv: true, ..Default::default() });
    let range = Request::Range(pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() });
    for request in [put, range] {
        let response = pair.apply(request).await?;
        assert!(response.is_answer(), "{response}");
    }
    Ok(())
}

fn ranges() -> impl Iterator<Item = Request> {
    let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let orders = [-1, 3, 9, i32::MAX].map(|sort_order| pb::RangeRequest { sort_order, ..all.clone() });
    let both = pb::RangeRequest { keys_only: true, count_only: true, limit: -3, ..all.clone() };
    let contradiction = pb::RangeRequest { min_mod_revision: 9, max_mod_revision: 1, ..all };
    orders.into_iter().chain([both, contradiction]).map(Request::Range)
}

fn members() -> impl Iterator<Item = Request> {
    let bad_urls =
        [vec![], vec![""], vec!["x"], vec!["http://"], vec!["ftp://127.0.0.1:1"], vec!["http://127.0.0.1:1/path"]];
    let urls = bad_urls.map(|urls| urls.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let ids = [0, 1, u64::MAX];
    let adds =
        urls.clone().map(|peer_ur_ls| Request::MemberAdd(pb::MemberAddRequest { peer_ur_ls, is_learner: false }));
    let updates = urls.map(|peer_ur_ls| Request::MemberUpdate(pb::MemberUpdateRequest { id: 1, peer_ur_ls }));
    let removes = ids.map(|id| Request::MemberRemove(pb::MemberRemoveRequest { id }));
    let promotes = ids.map(|id| Request::MemberPromote(pb::MemberPromoteRequest { id }));
    let moves = ids.map(|target_id| Request::MoveLeader(pb::MoveLeaderRequest { target_id }));
    let lists = [true, false].map(|linearizable| Request::MemberList(pb::MemberListRequest { linearizable }));
    adds.into_iter().chain(updates).chain(removes).chain(promotes).chain(moves).chain(lists)
}

fn alarms() -> impl Iterator<Item = Request> {
    let request = |action, alarm| Request::Alarm(pb::AlarmRequest { action, member_id: 0, alarm });
    let alarms = [(0, 9), (0, -1), (2, 1), (2, 2), (2, 0)];
    alarms.into_iter().map(move |(action, alarm)| request(action, alarm))
}

fn watches() -> impl Iterator<Item = Request> {
    let watch = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
    let all = [
        pb::WatchCreateRequest { watch_id: -1, ..watch.clone() },
        pb::WatchCreateRequest { watch_id: i64::MIN, ..watch.clone() },
        pb::WatchCreateRequest { watch_id: i64::MAX, ..watch.clone() },
        pb::WatchCreateRequest { filters: vec![7, -1], ..watch.clone() },
        pb::WatchCreateRequest { filters: vec![0; 1000], ..watch.clone() },
        pb::WatchCreateRequest { start_revision: i64::MAX, ..watch.clone() },
        pb::WatchCreateRequest { range_end: "A".into(), ..watch.clone() },
        pb::WatchCreateRequest { range_end: "a".into(), ..watch },
        pb::WatchCreateRequest::default(),
    ];
    all.into_iter().map(Request::WatchCreate)
}

fn permission(perm_type: i32, key: &'static str, range_end: &'static str) -> Request {
    let perm = Some(authpb::Permission { perm_type, key: key.into(), range_end: range_end.into() });
    Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: "reader".into(), perm })
}

fn roles() -> impl Iterator<Item = Request> {
    let name = "reader".to_owned();
    let add = Request::RoleAdd(pb::AuthRoleAddRequest { name: name.clone() });
    let get = Request::RoleGet(pb::AuthRoleGetRequest { role: name.clone() });
    [add, permission(0, "a", ""), permission(2, "a", "\0"), get].into_iter()
}
