//! Small C libraries that stand between a member and the system: one shifts the wall clock, one drops syncs.
//!
//! Must hold: a shifted clock changes what the wall clock says and nothing else: waiting and measuring go on as they would.
//!
//! Left to others: which member gets one (`Home::environment`).

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::chaos::scratch::{Scratch, run};

/// A wall clock that can be shifted while the member runs.
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
    file: File,
}

impl Clock {
    /// Makes one that is shifted by so many seconds.
    pub fn make(scratch: &Scratch, name: &str, seconds: i64) -> Result<Self> {
        let library = build(scratch, "clock", include_str!("shim/clock.c"))?;
        let offset = scratch.dir().join(format!("{name}.clock"));
        let file = File::options().create_new(true).read(true).write(true).open(&offset)?;
        let clock = Clock { library, offset, file };
        clock.shift(seconds)?;
        Ok(clock)
    }

    /// Sets it so many seconds forward of the machine's, or back, at once.
    pub fn shift(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    /// What a member is started with to have this clock.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        let preload = ("LD_PRELOAD".to_owned(), self.library.clone().into_os_string());
        vec![preload, ("CHAOS_CLOCK".to_owned(), self.offset.clone().into_os_string())]
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
