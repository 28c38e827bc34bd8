//! Frames: what has queued up, in one message.

use kv_proto::peer::v1::{Frame, Hello, Message};
use tokio::sync::mpsc;

use super::{FRAME_BYTES, FRAME_MESSAGES, Identity, PROTOCOL, PROTOCOL_OLDEST};
use kv_core::{InstanceId, NodeId};

/// The first frame of a stream.
pub(super) fn hello(own: Identity, to: NodeId) -> Frame {
    let hello = Hello {
        protocol: PROTOCOL,
        protocol_oldest: PROTOCOL_OLDEST,
        cluster: own.cluster.get().to_vec().into(),
        from: own.node.get(),
        to: to.get(),
        instance: own.instance.map(|instance| instance.get().to_vec()).unwrap_or_default().into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Frame { hello: Some(hello), messages: Vec::new() }
}

/// Whether two sides that speak protocols from … to … have one in common.
pub(super) fn common_protocol(theirs: u32, their_oldest: u32) -> Result<u32, String> {
    let oldest = if their_oldest == 0 { theirs } else { their_oldest };
    let common = theirs.min(PROTOCOL);
    if common >= oldest.max(PROTOCOL_OLDEST) {
        return Ok(common);
    }
    Err(format!(
        "peer protocols {oldest} to {theirs} are spoken there, {PROTOCOL_OLDEST} to {PROTOCOL} here; upgrade the older \
         node, one release at a time"
    ))
}

/// Whether the other side is who it should be, and which data directory it has. `from`: whom we expect, if we do.
pub(super) fn check(
    own: Identity,
    from: Option<NodeId>,
    frame: &Frame,
) -> Result<(NodeId, Option<InstanceId>), String> {
    let hello = frame.hello.as_ref().ok_or("the first frame has no hello; is this a netstate peer port?")?;
    common_protocol(hello.protocol, hello.protocol_oldest)?;
    if hello.cluster != own.cluster.get().as_slice() {
        return Err(format!(
            "the node belongs to another cluster than {}; check --initial-cluster and --data-dir",
            own.cluster
        ));
    }
    if hello.to != own.node.get() {
        return Err(format!("meant for n{}, but this is {}; check --initial-cluster", hello.to, own.node));
    }
    let instance = match hello.instance.len() {
        0 => None,
        _ => Some(hello.instance.as_ref().try_into().map_err(|_| "an instance has 16 bytes".to_string())?),
    };
    let found = NodeId::new(hello.from);
    match from {
        Some(expected) if expected != found => Err(format!("{found} answered in place of {expected}")),
        _ => Ok((found, instance.map(InstanceId::new))),
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
        let identity = |cluster, node| Identity {
            cluster: ClusterId::new([cluster; 16]),
            node: NodeId::new(node),
            instance: Some(InstanceId::new([9; 16])),
        };
        let own = identity(1, 1);
        let check = |from: Identity, to, expected| check(own, expected, &hello(from, NodeId::new(to)));
        let known = (NodeId::new(2), Some(InstanceId::new([9; 16])));
        assert_eq!(check(identity(1, 2), 1, Some(NodeId::new(2))), Ok(known));
        assert!(check(identity(9, 2), 1, None).unwrap_err().contains("another cluster"));
        assert!(check(identity(1, 2), 3, None).unwrap_err().contains("meant for n3"));
        assert!(check(identity(1, 3), 1, Some(NodeId::new(2))).unwrap_err().contains("in place of n2"));
        assert!(super::check(own, None, &Frame::default()).unwrap_err().contains("no hello"));
    }

    #[test]
    fn versions_agree_on_the_newest_that_both_speak() {
        assert_eq!(common_protocol(PROTOCOL, 0), Ok(PROTOCOL), "of a version that did not say its oldest");
        assert_eq!(common_protocol(PROTOCOL + 1, PROTOCOL), Ok(PROTOCOL), "the next release");
        assert!(common_protocol(PROTOCOL + 2, PROTOCOL + 1).unwrap_err().contains("upgrade the older node"));
    }
}
