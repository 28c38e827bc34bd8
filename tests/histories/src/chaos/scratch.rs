//! A folder for one scenario, and everything of the system that is made for it: mounts, namespaces, links.
//!
//! ```text
//! TMP/netstate-chaos-0/              0700, of this user
//!     nc4711x0/lock                  held as long as the scenario runs
//!     nc4711x0/…                     images, mount points
//! ```
//!
//! All names that the system knows begin with the folder's, so what is left of a run that was killed is found and removed
//! by the next one: whoever gets the lock of a folder that is there knows that nobody uses it any more.
//!
//! Must hold: nothing is removed whose name does not begin with that of a folder without owner.
//!
//! Left to others: processes, which end with their `Cluster`.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

static SCRATCHES: AtomicU32 = AtomicU32::new(0);
/// How long a mount may be busy after the last process that used it has ended.
const FREE_WITHIN: Duration = Duration::from_secs(5);

/// One scenario's folder.
pub struct Scratch {
    name: String,
    dir: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a folder, after removing what is left of runs that were killed.
    pub fn make() -> Result<Self> {
        let base = base()?;
        let _door = door(&base)?;
        sweep(&base)?;
        let name = format!("nc{}x{}", std::process::id(), SCRATCHES.fetch_add(1, Ordering::Relaxed));
        let dir = base.join(&name);
        DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let lock = File::create(dir.join("lock"))?;
        lock.lock()?;
        Ok(Scratch { name, dir, _lock: lock })
    }

    /// What all names begin with: 13 letters at most.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = base().and_then(|base| {
            let _door = door(&base)?;
            remove(&self.dir, &self.name)
        });
        if let Err(error) = removed {
            eprintln!("{} is not all removed, the next run tries again: {error:#}", self.dir.display());
        }
    }
}

fn base() -> Result<PathBuf> {
    let own = std::fs::metadata("/proc/self")?.uid();
    let base = std::env::temp_dir().join(format!("netstate-chaos-{own}"));
    match DirBuilder::new().mode(0o700).create(&base) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = std::fs::symlink_metadata(&base)?;
    ensure!(found.is_dir() && found.uid() == own, "{} is somebody else's; remove it", base.display());
    Ok(base)
}

/// One at a time sweeps, removes, or makes a folder and locks its lock.
fn door(base: &Path) -> Result<File> {
    let door = File::create(base.join("door"))?;
    door.lock()?;
    Ok(door)
}

/// Removes the folders that nobody holds.
fn sweep(base: &Path) -> Result<()> {
    for entry in std::fs::read_dir(base)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() || !name.starts_with("nc") {
            continue;
        }
        let lock = File::create(entry.path().join("lock"))?;
        if lock.try_lock().is_ok() {
            eprintln!("removing {name}, which an earlier run left");
            remove(&entry.path(), &name)?;
        }
    }
    Ok(())
}

fn remove(dir: &Path, name: &str) -> Result<()> {
    for mount in mounts(dir)?.iter().rev() {
        unmount(mount)?;
    }
    let namespaces = run(&["ip", "netns", "list"]).unwrap_or_default();
    let own = format!("{name}-");
    for namespace in namespaces.lines().filter_map(|line| line.split(' ').next()).filter(|line| line.starts_with(&own))
    {
        run(&["ip", "netns", "del", namespace])?;
    }
    // Its other end lay in a namespace that is gone, so it is usually gone, too.
    let _ = run(&["ip", "link", "del", name]);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// What is mounted under a folder, in the order in which it was mounted.
fn mounts(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Unmounts, waiting for the last user to let go.
pub(crate) fn unmount(point: &Path) -> Result<()> {
    let path = point.display().to_string();
    let deadline = Instant::now() + FREE_WITHIN;
    while let Err(error) = run(&["umount", &path]) {
        if Instant::now() > deadline {
            // It goes once nobody uses it any more.
            run(&["umount", "--lazy", &path])?;
            return Err(error.context("it was unmounted lazily"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Whether this user may mount and make namespaces, or why not.
pub fn root() -> Result<(), String> {
    match std::fs::metadata("/proc/self") {
        Ok(own) if own.uid() == 0 => Ok(()),
        Ok(_) => Err("only root may mount disks and make network namespaces".to_owned()),
        Err(error) => Err(format!("/proc cannot be read: {error}")),
    }
}

/// Runs a command that has to succeed, and gives what it printed.
pub(crate) fn run(words: &[&str]) -> Result<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().with_context(|| words.join(" "))?;
    if !output.status.success() {
        bail!("`{}`: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
