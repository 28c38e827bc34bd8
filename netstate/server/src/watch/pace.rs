//! How far apart the frames for one host are: not at all while the node keeps up, and the more the later it is.
//!
//! A frame costs about the same whatever is in it, and what becomes known while a host waits goes into its next one. So a node
//! that has too much to do gets less of it. A host that is told of something now and then is told at once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Frames are farther apart than the node is late, by this factor …
const LATENESSES: u32 = 8;

/// … but not by more than this: a disconnect waits as well.
const APART_MAX: Duration = Duration::from_millis(40);

/// The lateness is that of about so many frames, recent ones counting more.
const FRAMES: u64 = 64;

/// How late a node is with frames.
#[derive(Default)]
pub(super) struct Pace {
    late_nanos: AtomicU64,
}

impl Pace {
    /// So long a frame that could have been made was not, since nobody came to it.
    pub(super) fn was_late(&self, late: Duration) {
        let late = u64::try_from(late.min(APART_MAX).as_nanos()).unwrap_or(u64::MAX);
        let before = self.late_nanos.load(Ordering::Relaxed);
        // One of two that come at once may be lost; there are many.
        self.late_nanos.store(before - before / FRAMES + late / FRAMES, Ordering::Relaxed);
    }

    /// How far apart a host's frames are now.
    pub(super) fn apart(&self) -> Duration {
        (LATENESSES * Duration::from_nanos(self.late_nanos.load(Ordering::Relaxed))).min(APART_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_far_apart_as_the_node_is_late() {
        let pace = Pace::default();
        let after = |frames, late| {
            (0..frames).for_each(|_| pace.was_late(late));
            pace.apart()
        };
        assert_eq!(after(1000, Duration::ZERO), Duration::ZERO);
        let one = after(1, Duration::from_millis(16));
        assert_eq!(one, Duration::from_millis(2), "one of many says little");
        let steady = after(1000, Duration::from_millis(2));
        assert!(steady > Duration::from_millis(14) && steady < Duration::from_millis(18), "{steady:?}");
        assert_eq!(after(1000, Duration::from_secs(3600)), APART_MAX);
        assert!(after(1000, Duration::ZERO) < Duration::from_micros(10));
    }
}
