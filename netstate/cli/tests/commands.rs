//! The command line against a server: exit codes, what goes to which output, and files of endpoints.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::File,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use support::{Processes, create_network, register_host};

/// Runs a command line of words without spaces against these servers.
fn netstate(servers: &str, line: &str, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netstate"));
    command.env_clear().env("NETSTATE_SERVERS", servers).args(line.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks an exit code, and what the outputs contain; an empty part stands for an empty output.
fn check(servers: &str, line: &str, code: i32, stdout: &str, stderr: &str) {
    let output = netstate(servers, line, "");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{line}: {out}{err}");
    for (found, expected) in [(&out, stdout), (&err, stderr)] {
        assert!(
            if expected.is_empty() { found.is_empty() } else { found.contains(expected) },
            "{line}: {out}--\n{err}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_outputs_say_how_it_went() {
    let cluster = Processes::start(1);
    let client = cluster.client();
    create_network(&client, "web", "10.0.0.0/24").await;
    create_network(&client, "db", "10.1.0.0/24").await;
    register_host(&client, "host-a", "192.0.2.1").await;
    let servers = cluster.client_address(0);
    let check = |line: &str, code: i32, stdout: &str, stderr: &str| check(&servers, line, code, stdout, stderr);
    check("endpoint attach web/one --host host-a --label app=shop", 0, "web/one", "");
    check("endpoint attach db/two --host host-a", 0, "db/two", "");
    check("reach web db", 1, "denied", "");
    check("connect web db --port tcp/5432 --reason x --dry-run", 0, "would open 1 endpoint pair ", "");
    check("connect web db --port tcp/5432 --reason orders", 0, "c1 web -> db tcp/5432", "");
    check("reach web db", 0, "allowed", "");
    check("reach web db -o json", 0, "\"verdict\": \"allowed\"", "");
    check("exposure db/two", 0, "orders", "");
    check("endpoint ls --selector app=shop", 0, "web/one", "");
    check("endpoint quarantine web/one --reason odd", 0, "yes: odd", "in quarantine");
    check("reach web db", 1, "denied", "");
    check("endpoint release web/one --reason fine", 0, "quarantine  no", "out of quarantine");
    check("wait --connection c1 --timeout 300ms", 1, "", "host-a (not connected)");
    check("wait --connection c1 --except-lost --lost-after 1ms", 0, "", "in force on 0 of 1 hosts concerned");
    check("wait --connection c1 --except-lost --lost-after 1h --timeout 300ms", 1, "", "host-a (not connected)");
    check("wait --connection c1 --lost-after 1h", 2, "", "--except-lost");
    check("wait --connection c1 --network web", 2, "", "cannot be used with");
    check("wait", 2, "", "--connection");
    check("network show nowhere", 1, "", "nowhere");
    check("network create web --pool 10.9.0.0/24", 1, "", "web");
    check("network rm web", 1, "", "web");
    check("network ls -o yaml", 2, "", "yaml");
    check("--servers nonsense network ls", 2, "", "nonsense");
    check("--servers 127.0.0.1:1 --timeout 300ms network ls", 3, "", "127.0.0.1:1");
    check("disconnect c1 --reason over --wait --timeout 300ms", 1, "disconnected c1", "host-a (not connected)");
    check("wait --connection c1 --timeout 300ms", 1, "", "host-a (not connected)");
    check("audit log", 0, "orders", "");
    check("audit verify", 0, "sound", "all replicas agree");
    check("cluster status", 0, "n1", "as n1 sees it");
    check("host ls", 0, "silent", "");
    check("host ls --behind --lost-after 1ms", 0, "lost", "");
    check("endpoint detach web/one db/two", 0, "DETACHED", "");
    check("network rm web", 0, "", "network web is gone");
    check("completions bash", 0, "_netstate", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_endpoints_is_attached_in_batches_or_refused_with_its_lines() {
    let cluster = Processes::start(1);
    let client = cluster.client();
    create_network(&client, "web", "10.0.0.0/16").await;
    register_host(&client, "host-a", "192.0.2.1").await;
    let servers = cluster.client_address(0);
    let line = |n: usize| format!("{{\"network\":\"web\",\"name\":\"ep-{n}\",\"host\":\"host-a\"}}\n");
    let lines: String = (0..2500).map(line).collect();

    let output = netstate(&servers, "endpoint attach -f - --batch 1000 -o json", &lines);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["endpoints"].as_array().unwrap().len(), 2500);
    assert!(text(&output.stderr).contains("2,500 of 2,500"), "{}", text(&output.stderr));

    let twice = netstate(&servers, "endpoint attach -f -", &line(7));
    assert_eq!(twice.status.code(), Some(1));
    assert!(text(&twice.stderr).contains("ep-7"), "{}", text(&twice.stderr));

    let wrong = netstate(&servers, "endpoint attach -f -", &format!("{}nonsense\n{{}}\n", line(9000)));
    let said = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(said.contains("line 2") && said.contains("line 3") && said.contains("nothing is sent"), "{said}");
    assert_eq!(support::endpoints(&client).await.len(), 2500);
}

#[test]
fn a_reader_that_leaves_and_a_full_disk_are_no_reason_to_panic() {
    let run = |stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netstate"));
        command.args(["completions", "bash"]).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.spawn().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let left = run(writer.into(), Stdio::piped()).wait_with_output().unwrap();
    assert_eq!((left.status.code(), text(&left.stderr)), (Some(0), String::new()));
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let unwritten = run(full(), Stdio::piped()).wait_with_output().unwrap();
    assert_eq!(unwritten.status.code(), Some(1));
    assert!(text(&unwritten.stderr).contains("can't be written"), "{}", text(&unwritten.stderr));
    // Nobody is left to tell: still no panic.
    assert_eq!(run(full(), full()).wait().unwrap().code(), Some(1));
}
