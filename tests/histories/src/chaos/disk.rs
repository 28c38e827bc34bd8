//! Disks of a member's own: small ones that can be filled, and ones whose power can be cut.
//!
//! A disk that loses power has a write cache that nobody else has flushed: an ext4 file system in a file of another ext4
//! file system. What the member writes past the page cache of the first ends in the page cache of the second, and gets from
//! there to its image only by a flush. Cutting the power shuts the second one down without letting it write anything more.
//!
//! ```text
//!   member ──► DIR/data ──loop──► DIR/under/disk.img ──loop──► DIR/under.img
//!              ext4               page cache: lost, but for    survives
//!                                 what was flushed
//! ```
//!
//! Must hold: what was flushed by the member is there after the power comes back; anything else may be gone.
//!
//! Left to others: unmounting at the end (`Scratch`).

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::chaos::scratch::{Scratch, run, unmount};

/// Room beside the inner image, for the outer file system's own records.
const OUTER_EXTRA_MIB: u64 = 48;
/// The least that a file takes up.
const BLOCK_BYTES: u64 = 4096;
/// The file that takes up room.
const BALLAST: &str = "ballast";

/// A small disk.
pub struct SmallDisk {
    point: PathBuf,
}

impl SmallDisk {
    /// Makes and mounts one.
    pub fn make(scratch: &Scratch, name: &str, mib: u64) -> Result<Self> {
        let (image, point) = (scratch.dir().join(format!("{name}.img")), scratch.dir().join(name));
        format(&image, mib)?;
        mount(&image, &point)?;
        Ok(SmallDisk { point })
    }

    /// A folder on it for a member's data.
    pub fn data_dir(&self) -> PathBuf {
        self.point.join("data")
    }

    /// How many bytes are free.
    pub fn free_bytes(&self) -> Result<u64> {
        let found = statvfs(&self.point)?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Takes up room until about so much is left.
    pub fn fill(&self, keep_free_bytes: u64) -> Result<()> {
        let ballast = File::options().create(true).append(true).open(self.point.join(BALLAST))?;
        let mut part = self.free_bytes()?.saturating_sub(keep_free_bytes);
        ensure!(part > 0, "fewer than {keep_free_bytes} bytes are free already");
        // What the file system needs for its own records, or somebody else has taken meanwhile, is not to be had.
        while part >= BLOCK_BYTES {
            let more = self.free_bytes()?.saturating_sub(keep_free_bytes).min(part);
            let length = ballast.metadata()?.len();
            match fallocate(&ballast, FallocateFlags::empty(), length, more.max(BLOCK_BYTES)) {
                Ok(()) if more < part || keep_free_bytes > 0 => break,
                Ok(()) => {}
                Err(rustix::io::Errno::NOSPC) => part /= 2,
                Err(error) => return Err(error).context("taking up room"),
            }
        }
        Ok(())
    }

    /// Gives back what was taken up.
    pub fn make_room(&self) -> Result<()> {
        std::fs::remove_file(self.point.join(BALLAST)).context("giving back room")
    }
}

/// A disk whose power can be cut.
pub struct PowerDisk {
    outer: PathBuf,
    under: PathBuf,
    point: PathBuf,
}

impl PowerDisk {
    /// Makes and mounts one.
    pub fn make(scratch: &Scratch, name: &str, mib: u64) -> Result<Self> {
        let in_scratch = |what: &str| scratch.dir().join(format!("{name}-{what}"));
        let disk = PowerDisk { outer: in_scratch("under.img"), under: in_scratch("under"), point: in_scratch("data") };
        format(&disk.outer, mib + OUTER_EXTRA_MIB)?;
        mount(&disk.outer, &disk.under)?;
        let inner = File::create_new(disk.inner())?;
        // Its blocks are there from the start, so that a flush has only data to write.
        fallocate(&inner, FallocateFlags::empty(), 0, mib << 20)?;
        make_ext4(&disk.inner())?;
        inner.sync_all()?;
        mount(&disk.inner(), &disk.point)?;
        Ok(disk)
    }

    fn inner(&self) -> PathBuf {
        self.under.join("disk.img")
    }

    /// A folder on it for a member's data.
    pub fn data_dir(&self) -> PathBuf {
        self.point.join("data")
    }

    /// From this moment on nothing that is not on the disk gets there.
    pub fn cut_power(&self) -> Result<()> {
        shut_down(&self.under)
    }

    /// Mounts what there is, once no process uses the disk any more.
    pub fn power_on(&self) -> Result<()> {
        unmount(&self.point)?;
        unmount(&self.under)?;
        mount(&self.outer, &self.under)?;
        mount(&self.inner(), &self.point)
    }
}

fn format(image: &Path, mib: u64) -> Result<()> {
    File::create_new(image)?.set_len(mib << 20)?;
    make_ext4(image)
}

fn make_ext4(image: &Path) -> Result<()> {
    let path = image.display().to_string();
    // Nothing is left to be initialised in the background, and nothing kept for root.
    let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    run(&["mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, &path])?;
    Ok(())
}

fn mount(image: &Path, point: &Path) -> Result<()> {
    std::fs::create_dir_all(point)?;
    run(&["mount", "-t", "ext4", "-o", "loop", &image.display().to_string(), &point.display().to_string()])?;
    Ok(())
}

/// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written.
const WITHOUT_FLUSH: u32 = 2;

#[expect(unsafe_code, reason = "no crate wraps this call; it reads one number and touches no other memory")]
fn shut_down(point: &Path) -> Result<()> {
    let dir = File::open(point)?;
    // SAFETY: the call reads a u32 through the pointer that `Setter` passes, and writes nothing.
    unsafe { rustix::ioctl::ioctl(&dir, rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSH)) }
        .with_context(|| format!("{} cannot be shut down", point.display()))
}
