//! How much memory and how many files a store takes, and how its database is set up.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel};

use crate::state::Reclaim;

/// Limits of a store. What is in memtables is on its way to disk: a node that is idle soon has them empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a memtable of the state database; there are at most two.
    pub state_memtable_bytes: usize,
    /// Bytes of one of the log's files.
    pub log_segment_bytes: u64,
    /// Bytes of blocks, indexes and filters cached. Filters and indexes of a million keys take some four megabytes; where
    /// they don't fit, each write of a new key reads them from disk again.
    pub block_cache_bytes: usize,
    /// Bytes of recent log entries kept in memory for each group while it is written, beside those that are not written
    /// yet: what is under way to followers and to the state is then not read from disk.
    pub log_cache_bytes_per_group: usize,
    /// Bytes of log entries of all groups that wait to be written; who appends more waits.
    pub log_queue_bytes: usize,
    /// Table files kept open.
    pub open_files: i32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            state_memtable_bytes: 64 << 20,
            log_segment_bytes: 8 << 20,
            block_cache_bytes: 32 << 20,
            log_cache_bytes_per_group: 2 << 20,
            log_queue_bytes: 8 << 20,
            open_files: 128,
        }
    }
}

/// Memtables grow in steps of this, so that those of an idle node are small.
const ARENA_BYTES: usize = 256 << 10;

/// Levels of the state whose files are rewritten too often to be worth compressing.
const PLAIN_LEVELS: usize = 2;

impl Options {
    /// The state database: point reads of keys that mostly don't exist yet, range reads, many overwrites.
    pub(crate) fn state(&self, cache: &Cache, found: bool, reclaim: Reclaim) -> rocksdb::Options {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(found);
        options.set_paranoid_checks(true);
        options.set_max_open_files(self.open_files);
        options.set_max_background_jobs(2);
        options.set_max_write_buffer_number(2);
        options.set_arena_block_size(ARENA_BYTES);
        // One thread at a time writes: inserts need not be safe beside others.
        options.set_allow_concurrent_memtable_write(false);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_max_manifest_file_size(4 << 20);
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(cache);
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        tables.set_format_version(5);
        tables.set_bloom_filter(10.0, false);
        options.set_block_based_table_factory(&tables);
        options.set_write_buffer_size(self.state_memtable_bytes);
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.02);
        let deeper = 7 - PLAIN_LEVELS;
        let levels = [vec![DBCompressionType::None; PLAIN_LEVELS], vec![DBCompressionType::Lz4; deeper]].concat();
        options.set_compression_per_level(&levels);
        options.set_compaction_filter_factory(reclaim);
        options.set_target_file_size_base(32 << 20);
        options.set_max_bytes_for_level_base(256 << 20);
        options
    }
}
