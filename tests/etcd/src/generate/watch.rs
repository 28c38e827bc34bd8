//! Watches.

use etcd_proto::etcdserverpb as pb;

use super::Generator;

impl Generator {
    /// A watch over some keys, from any revision, under an identifier that may be taken.
    pub fn watch(&mut self) -> pb::WatchCreateRequest {
        let (key, range_end) = self.key_range();
        let mut watch = pb::WatchCreateRequest { key, range_end, ..Default::default() };
        if self.percent(70) {
            watch.start_revision = self.start_revision();
        }
        if self.percent(25) {
            watch.filters = self.pick(&[vec![0], vec![1], vec![0, 1], vec![1, 1]]);
        }
        if self.percent(30) {
            watch.watch_id = self.pick(&[1, 2, 3, 40, 41, 1000, i64::MAX - 1, -5]);
        }
        watch.prev_kv = self.percent(40);
        watch.fragment = self.percent(20);
        watch
    }

    /// Before the first compaction etcd takes a negative revision for one that exists, reads nothing from there, and drops
    /// what happens until it has looked, for other watches of the same round too: nothing to compare with.
    fn start_revision(&mut self) -> i64 {
        let revision = self.revision();
        if self.world.compacted > 0 { revision } else { revision.max(0) }
    }
}
