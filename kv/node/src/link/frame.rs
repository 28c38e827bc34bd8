//! Frames: what has queued up, in one message.

use kv_proto::peer::v1::{Frame, Hello, Message};
use tokio::sync::mpsc;

use super::{FRAME_BYTES, FRAME_MESSAGES, Identity, PROTOCOL};
use kv_core::NodeId;

/// The first frame of a stream.
pub(super) fn hello(own: Identity, to: NodeId) -> Frame {
    let hello =
        Hello { protocol: PROTOCOL, cluster: own.cluster.get().to_vec().into(), from: own.node.get(), to: to.get() };
    Frame { hello: Some(hello), messages: Vec::new() }
}

/// Whether the other side is who it should be. `from`: whom we expect, if we do.
pub(super) fn check(own: Identity, from: Option<NodeId>, frame: &Frame) -> Result<NodeId, String> {
    let hello = frame.hello.as_ref().ok_or("the first frame has no hello; is this a netstate peer port?")?;
    if hello.protocol != PROTOCOL {
        return Err(format!(
            "peer protocol {} is spoken there, {PROTOCOL} here; upgrade the older node",
            hello.protocol
        ));
    }
    if hello.cluster != own.cluster.get().as_slice() {
        return Err(format!("the node belongs to another cluster than {}; check --initial-cluster", own.cluster));
    }
    if hello.to != own.node.get() {
        return Err(format!("meant for n{}, but this is {}; check --initial-cluster", hello.to, own.node));
    }
    let found = NodeId::new(hello.from);
    match from {
        Some(expected) if expected != found => Err(format!("{found} answered in place of {expected}")),
        _ => Ok(found),
    }
}

/// The next frame: waits for one message, then takes what is there.
pub(super) async fn next<T>(queue: &mut mpsc::Receiver<T>, mut message: impl FnMut(T) -> Message) -> Option<Frame> {
    let mut messages = vec![message(queue.recv().await?)];
    let mut bytes = messages[0].payload.len();
    while messages.len() < FRAME_MESSAGES && bytes < FRAME_BYTES {
        let Ok(waiting) = queue.try_recv() else { break };
        let waiting = message(waiting);
        bytes += waiting.payload.len();
        messages.push(waiting);
    }
    Some(Frame { hello: None, messages })
}

#[cfg(test)]
mod tests {
    use kv_core::ClusterId;

    use super::*;

    #[test]
    fn strangers_are_refused_with_the_reason() {
        let own = Identity { cluster: ClusterId::new([1; 16]), node: NodeId::new(1) };
        let peer = |cluster, node| Identity { cluster: ClusterId::new([cluster; 16]), node: NodeId::new(node) };
        let check = |from: Identity, to, expected| check(own, expected, &hello(from, NodeId::new(to)));
        assert_eq!(check(peer(1, 2), 1, Some(NodeId::new(2))), Ok(NodeId::new(2)));
        assert!(check(peer(9, 2), 1, None).unwrap_err().contains("another cluster"));
        assert!(check(peer(1, 2), 3, None).unwrap_err().contains("meant for n3"));
        assert!(check(peer(1, 3), 1, Some(NodeId::new(2))).unwrap_err().contains("in place of n2"));
        assert!(super::check(own, None, &Frame::default()).unwrap_err().contains("no hello"));
    }
}
