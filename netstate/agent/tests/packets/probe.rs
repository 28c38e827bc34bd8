//! Processes inside endpoints' namespaces that talk: this very test binary, started again with a task in its environment.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

/// How long a packet may take, on a busy machine, before it counts as dropped.
const PATIENCE: Duration = Duration::from_millis(700);
/// How often a flow sends.
const BEAT: Duration = Duration::from_millis(20);
/// How long a probe may say nothing.
const DEADLINE: Duration = Duration::from_secs(10);
const TASK: &str = "NETSTATE_PROBE";

/// A process that is ended with its owner.
pub(crate) struct Probe {
    child: Child,
    /// What it says, as it says it. Bounded: a probe that nobody listens to waits.
    lines: Receiver<String>,
}

/// The entry of a probe's process. As a test of its own it has nothing to do.
#[test]
fn probe() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let address = |word: &str| word.parse::<SocketAddr>().unwrap();
    match words.as_slice() {
        ["serve", at] => serve(address(at)),
        ["reach", to] => println!("{}", verdict(reach(address(to)))),
        ["flow", to] => flow(address(to)),
        ["hear", at] => hear(address(at)),
        ["chatter", to, word] => chatter(address(to), word),
        ["say", from, to, word] => drop(UdpSocket::bind(address(from)).unwrap().send_to(word.as_bytes(), address(to))),
        other => panic!("unknown task {other:?}"),
    }
}

impl Probe {
    /// A process in a namespace.
    pub(crate) fn start(netns: &str, task: &str) -> Probe {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "probe::probe", "--nocapture", "--test-threads=1"]).env(TASK, task);
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = std::sync::mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let own = line.split_once("probe: ").map(|(_, own)| own.trim().to_owned());
                if own.is_some_and(|own| said.send(own).is_err()) {
                    return;
                }
            }
        });
        Probe { child, lines }
    }

    /// The next that it says; none when it has ended or says nothing.
    pub(crate) fn line(&mut self) -> Option<String> {
        self.lines.recv_timeout(DEADLINE).ok()
    }

    /// What it said so far.
    pub(crate) fn so_far(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Waits until the probe says this; gives what it said before.
    pub(crate) fn until(&mut self, expected: &str) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.line() {
            if line == expected {
                return said;
            }
            said.push(line);
        }
        panic!("never said {expected:?}, but {said:?}");
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TCP server that echoes, listening when this returns.
pub(crate) fn server(netns: &str, at: &str) -> Probe {
    let mut probe = Probe::start(netns, &format!("serve {at}"));
    probe.until("ready");
    probe
}

/// Whether a TCP connection is made and echoes.
pub(crate) fn reaches(netns: &str, to: &str) -> bool {
    let mut probe = Probe::start(netns, &format!("reach {to}"));
    probe.line().expect("a verdict") == "passed"
}

fn verdict(passed: bool) -> &'static str {
    if passed { "probe: passed" } else { "probe: dropped" }
}

fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    println!("probe: ready");
    for stream in listener.incoming() {
        std::thread::spawn(move || {
            let mut stream = stream.unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
        });
    }
}

fn reach(to: SocketAddr) -> bool {
    let echoed = TcpStream::connect_timeout(&to, PATIENCE).and_then(|mut stream| beat(&mut stream));
    echoed.is_ok()
}

fn beat(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [7];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// One TCP connection that talks all the time, and says when it begins to stall.
fn flow(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut worst, mut beats) = (Duration::ZERO, 0_u32);
    loop {
        let sent = Instant::now();
        if let Err(error) = beat(&mut stream) {
            println!("probe: stalled ({error})");
            println!("probe: cut");
            return;
        }
        (worst, beats) = (worst.max(sent.elapsed()), beats + 1);
        println!("probe: beat {beats} worst {} ms", worst.as_millis());
        if beats == 1 {
            println!("probe: flowing");
        }
        pause(BEAT);
    }
}

/// Datagrams, one a millisecond.
fn chatter(to: SocketAddr, word: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    println!("probe: ready");
    loop {
        let _ = socket.send_to(word.as_bytes(), to);
        pause(Duration::from_millis(1));
    }
}

/// Paced by a timeout on a socket that nobody writes to.
fn pause(time: Duration) {
    let idle = UdpSocket::bind("127.0.0.1:0").unwrap();
    idle.set_read_timeout(Some(time)).unwrap();
    let _ = idle.recv(&mut [0]);
}

/// Prints every datagram.
fn hear(at: SocketAddr) {
    let socket = UdpSocket::bind(at).unwrap();
    println!("probe: ready");
    let mut bytes = [0; 64];
    while let Ok(len) = socket.recv(&mut bytes) {
        println!("probe: {}", String::from_utf8_lossy(&bytes[..len]));
    }
}
