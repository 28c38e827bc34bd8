//! `netstate probe`: packets sent for real, for whoever wants to see what is enforced. Used by the demo; not in the help.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{self, Instant},
};

use super::signals::Ends;
use crate::{
    console::{Console, Format},
    failure::Failure,
    values::Span,
};

/// Before an echo server that is out of sockets takes the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection is tried unless `--timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Send real packets
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Echo whatever TCP connections bring, until a signal
    Listen {
        /// Where; may be given several times
        #[arg(long = "address", value_name = "IP:PORT", required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Try one TCP connection and one echo, for as long as --timeout: prints how long it took, or exits with 1
    Connect {
        /// Where to
        address: SocketAddr,
    },
    /// Keep one TCP connection busy: prints "ok" and milliseconds for each echo, and "cut" when there is none any more
    Stream {
        /// Where to
        address: SocketAddr,
        /// Between messages
        #[arg(long, default_value = "50ms")]
        interval: Span,
        /// How long to go on
        #[arg(long = "for", default_value = "60s")]
        lasting: Span,
        /// Without an echo for so long it counts as cut
        #[arg(long, default_value = "1s")]
        patience: Span,
    },
}

pub(crate) async fn run(command: Command, timeout: Option<Span>) -> Result<(), Failure> {
    match command {
        Command::Listen { addresses } => listen(addresses).await,
        Command::Connect { address } => connect(address, timeout.map_or(CONNECT_TIMEOUT, Span::get)).await,
        Command::Stream { address, interval, lasting, patience } => {
            let stream = stream(address, interval.get(), patience.get());
            // Its time is over: that is the end that was asked for.
            time::timeout(lasting.get(), stream).await.unwrap_or(Ok(()))
        }
    }
}

fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    Console::new(Format::Table).print(text)
}

async fn listen(addresses: Vec<SocketAddr>) -> Result<(), Failure> {
    let mut ends = Ends::listen()?;
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        let context = |error| Failure::refused(anyhow::Error::new(error).context(format!("can't listen on {address}")));
        tokio::spawn(echo(listener.map_err(context)?));
    }
    ends.arrived().await;
    Ok(())
}

async fn echo(listener: TcpListener) {
    loop {
        let Ok((mut socket, _)) = listener.accept().await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            // The other side may end it as it likes.
            let _ = socket.set_nodelay(true);
            let (mut from, mut to) = socket.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

/// Sends one byte and waits for it to come back.
async fn exchange(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.write_all(b"?").await?;
    socket.read_exact(&mut [0]).await.map(drop)
}

async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    exchange(&mut socket).await?;
    Ok(socket)
}

async fn connect(address: SocketAddr, within: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    match time::timeout(within, open(address)).await {
        Ok(Ok(_)) => print(format_args!("{:.1} ms", millis(began.elapsed()))),
        Ok(Err(error)) => Err(Failure::False(Some(format!("{address}: {error}")))),
        Err(_) => Err(Failure::False(Some(format!("{address}: nothing within {} ms", within.as_millis())))),
    }
}

async fn stream(address: SocketAddr, interval: Duration, patience: Duration) -> Result<(), Failure> {
    let nothing = || Failure::False(Some(format!("{address}: no connection within {} ms", patience.as_millis())));
    let opened = time::timeout(patience, open(address)).await.map_err(|_| nothing())?;
    let mut socket = opened.map_err(|error| Failure::False(Some(format!("{address}: {error}"))))?;
    loop {
        let sent = Instant::now();
        let why = match time::timeout(patience, exchange(&mut socket)).await {
            Ok(Ok(())) => {
                print(format_args!("ok {:.1}", millis(sent.elapsed())))?;
                time::sleep(interval).await;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no echo within {} ms", patience.as_millis()),
        };
        print(format_args!("cut: {why}"))?;
        return Err(Failure::False(None));
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
