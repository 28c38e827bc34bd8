//! A way to an etcd that can be cut at any moment.

use std::sync::Arc;

use kv_import::Side;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tonic::transport::Endpoint;

/// Forwards connections, until told to cut those that there are.
pub struct Proxy {
    cuts: Arc<watch::Sender<u64>>,
    port: u16,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    pub async fn to(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let cuts = Arc::new(watch::channel(0).0);
        let seen = cuts.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = seen.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Ok(Self { cuts, port: own, accepting })
    }

    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    pub fn side(&self) -> anyhow::Result<Side> {
        Ok(Side::new(Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port))?.connect_lazy()))
    }
}
