//! Small C libraries that stand between a member and the system: one shifts the wall clock, one makes the disk slow, one
//! drops syncs.
//!
//! Must hold: a shifted clock changes what the wall clock says and nothing else: waiting and measuring go on as they would.
//!
//! Left to others: which member gets one (`Home::environment`).

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::chaos::scratch::{Scratch, run};

/// A number that a library follows while the member runs.
struct Dial {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl Dial {
    /// One for this member, of a library that is called so and does what the source says.
    fn make(scratch: &Scratch, library: &str, source: &str, member: &str) -> Result<Self> {
        let path = scratch.dir().join(format!("{member}.{library}"));
        let library = build(scratch, library, &[include_str!("shim/dial.c"), source].concat())?;
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        let dial = Dial { library, path, file };
        dial.set(0)?;
        Ok(dial)
    }

    fn set(&self, number: i64) -> Result<()> {
        Ok(self.file.write_all_at(&number.to_ne_bytes(), 0)?)
    }

    fn environment(&self) -> Vec<(String, OsString)> {
        let preload = ("LD_PRELOAD".to_owned(), self.library.clone().into_os_string());
        vec![preload, ("CHAOS_DIAL".to_owned(), self.path.clone().into_os_string())]
    }
}

/// A disk that can be made slow while the member runs.
pub struct SlowDisk(Dial);

impl SlowDisk {
    /// Makes one that is as fast as it is.
    pub fn make(scratch: &Scratch, name: &str) -> Result<Self> {
        Ok(SlowDisk(Dial::make(scratch, "slow", include_str!("shim/slow.c"), name)?))
    }

    /// From now on each sync takes so much longer.
    pub fn slow_down(&self, by: Duration) -> Result<()> {
        self.0.set(i64::try_from(by.as_millis())?)
    }

    /// What a member is started with to have this disk.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        self.0.environment()
    }
}

/// A wall clock that can be shifted while the member runs.
pub struct Clock(Dial);

impl Clock {
    /// Makes one that is shifted by so many seconds.
    pub fn make(scratch: &Scratch, name: &str, seconds: i64) -> Result<Self> {
        let clock = Clock(Dial::make(scratch, "clock", include_str!("shim/clock.c"), name)?);
        clock.shift(seconds)?;
        Ok(clock)
    }

    /// Sets it so many seconds forward of the machine's, or back, at once.
    pub fn shift(&self, seconds: i64) -> Result<()> {
        self.0.set(seconds)
    }

    /// What a member is started with to have this clock.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        self.0.environment()
    }
}

/// What a member is started with to have none of its syncs reach the disk: a fault that the power rows have to find.
pub fn without_syncs(scratch: &Scratch) -> Result<Vec<(String, OsString)>> {
    let library = build(scratch, "nosync", include_str!("shim/nosync.c"))?;
    Ok(vec![("LD_PRELOAD".to_owned(), library.into_os_string())])
}

fn build(scratch: &Scratch, name: &str, source: &str) -> Result<PathBuf> {
    let in_scratch = |ending: &str| scratch.dir().join(format!("{name}.{ending}"));
    let (code, library) = (in_scratch("c"), in_scratch("so"));
    if !library.exists() {
        std::fs::write(&code, source)?;
        let path = |path: &Path| path.display().to_string();
        let words = ["cc", "-O2", "-shared", "-fPIC", "-o", &path(&library), &path(&code), "-ldl"];
        run(&words).context("a C compiler is needed")?;
    }
    Ok(library)
}
