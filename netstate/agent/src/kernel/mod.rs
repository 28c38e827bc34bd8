//! The kernel: runs what was planned and reads what is there, by way of `nft`, `ip` and `conntrack`.
//!
//! Must hold: one process for each batch, never one for each element; every process has a deadline; scripts go in on
//! standard input, so that their length has no limit.
//!
//! Left to others: what to run, and when (`plan`, `enforce`).

mod command;
mod listing;
mod monitor;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use netstate_model::NetnsName;

use crate::plan::{Device, Flow, NetnsPath, Program, Routes, Sets, Table};

pub use command::KernelError;
pub use listing::Found;
pub use monitor::Monitor;

use command::{Runner, complaint};

/// The kernel, or a picture of one that only prints what it is asked to do.
#[derive(Clone, Debug)]
pub struct Kernel {
    table: Table,
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Real(Runner),
    /// What was printed is remembered, so that what is printed next is the difference.
    Printed(Arc<Mutex<Picture>>),
}

#[derive(Debug, Default)]
struct Picture {
    table: Option<Sets>,
    routes: Routes,
    devices: BTreeSet<Device>,
}

impl Kernel {
    /// The real kernel: of the namespace that the agent runs in, or of another one.
    pub fn real(table: Table, netns: Option<NetnsName>) -> Self {
        Kernel { table, mode: Mode::Real(Runner::new(netns)) }
    }

    /// Prints to standard output what would be done, and touches nothing.
    pub fn printed(table: Table) -> Self {
        Kernel { table, mode: Mode::Printed(Arc::default()) }
    }

    /// Whether nothing is really done.
    pub fn is_printed(&self) -> bool {
        matches!(self.mode, Mode::Printed(_))
    }

    /// The agent's table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Runs one atomic transaction. Afterwards the table's sets hold what is wanted.
    ///
    /// # Errors
    /// When it was refused; nothing has changed then.
    pub async fn program(&self, program: &Program, wanted: &Sets) -> Result<(), KernelError> {
        match &self.mode {
            Mode::Real(runner) => runner.run("nft", &["-f", "-"], &program.script).await.map(drop),
            Mode::Printed(picture) => {
                show("nft -f -", &program.script);
                lock(picture).table = Some(wanted.clone());
                Ok(())
            }
        }
    }

    /// Reads the table; none when there is none.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn found(&self) -> Result<Option<Found>, KernelError> {
        match &self.mode {
            Mode::Real(runner) => {
                let arguments = ["-s", "-n", "-j", "list", "table", "inet", self.table.as_str()];
                let output = runner.output("nft", &arguments, "").await?;
                match complaint(&output) {
                    missing if !output.status.success() && missing.contains("No such file or directory") => Ok(None),
                    complaint if !output.status.success() => {
                        Err(KernelError::Failed { program: "nft".into(), complaint })
                    }
                    _ => listing::table(&output.stdout).map(Some),
                }
            }
            Mode::Printed(picture) => Ok(lock(picture).table.clone().map(Found::printed)),
        }
    }

    /// Runs `ip` commands, each whatever becomes of the others. Gives what was complained about.
    ///
    /// # Errors
    /// When `ip` can't be run.
    pub async fn ip(&self, batch: &str) -> Result<Option<String>, KernelError> {
        if batch.is_empty() {
            return Ok(None);
        }
        match &self.mode {
            Mode::Real(runner) => failures(&runner.output("ip", &["-force", "-batch", "-"], batch).await?),
            Mode::Printed(_) => {
                show("ip -force -batch -", batch);
                Ok(None)
            }
        }
    }

    /// Runs `ip` commands in an endpoint's namespace.
    ///
    /// # Errors
    /// When `ip` can't be run there.
    pub async fn ip_within(&self, netns: &NetnsPath, batch: &str) -> Result<Option<String>, KernelError> {
        match &self.mode {
            Mode::Real(runner) => {
                let arguments = [&format!("--net={netns}"), "ip", "-force", "-batch", "-"];
                failures(&runner.output("nsenter", &arguments, batch).await?)
            }
            Mode::Printed(_) => {
                show(&format!("nsenter --net={netns} ip -force -batch -"), batch);
                Ok(None)
            }
        }
    }

    /// Writes settings: files below `/proc/sys/net` and what to write there.
    ///
    /// # Errors
    /// When one can't be written.
    pub async fn sysctls(&self, settings: &[(String, &'static str)]) -> Result<(), KernelError> {
        let mut script = String::new();
        for (file, value) in settings {
            writeln!(script, "echo {value} > /proc/sys/net/{file}").expect("writing to a string");
        }
        match &self.mode {
            // A shell, because /proc/sys/net is that of the namespace of whoever opens it.
            Mode::Real(runner) => runner.run("sh", &["-e"], &script).await.map(drop),
            Mode::Printed(_) => {
                show("sh -e", &script);
                Ok(())
            }
        }
    }

    /// The agent's routes.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn routes(&self) -> Result<Routes, KernelError> {
        match &self.mode {
            Mode::Real(runner) => {
                let mut routes = Routes::new();
                for family in ["-4", "-6"] {
                    let protocol = crate::plan::ROUTE_PROTOCOL.to_string();
                    let arguments = [family, "-j", "route", "show", "table", "main", "proto", &protocol];
                    routes.extend(listing::routes(&runner.run("ip", &arguments, "").await?)?);
                }
                Ok(routes)
            }
            Mode::Printed(picture) => Ok(lock(picture).routes.clone()),
        }
    }

    /// Puts the picture's routes in place, where nothing real is.
    pub fn note_routes(&self, routes: &Routes) {
        if let Mode::Printed(picture) = &self.mode {
            lock(picture).routes = routes.clone();
        }
    }

    /// Puts the picture's interfaces in place, where nothing real is.
    pub fn note_devices(&self, devices: BTreeSet<Device>) {
        if let Mode::Printed(picture) = &self.mode {
            lock(picture).devices = devices;
        }
    }

    /// The endpoints' interfaces that there are.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn devices(&self) -> Result<BTreeSet<Device>, KernelError> {
        match &self.mode {
            Mode::Real(runner) => listing::devices(&runner.run("ip", &["-j", "link", "show"], "").await?),
            Mode::Printed(picture) => Ok(lock(picture).devices.clone()),
        }
    }

    /// The interface that has an address; none when none has.
    ///
    /// # Errors
    /// When interfaces can't be read.
    pub async fn interface_of(&self, address: std::net::IpAddr) -> Result<Option<String>, KernelError> {
        match &self.mode {
            Mode::Real(runner) => {
                let listed = runner.run("ip", &["-j", "addr", "show", "to", &address.to_string()], "").await?;
                listing::interface(&listed)
            }
            Mode::Printed(_) => Ok(None),
        }
    }

    /// Has connection tracking forget flows. Whether there were any does not matter.
    ///
    /// # Errors
    /// When `conntrack` can't be run.
    pub async fn forget(&self, flows: &[Flow]) -> Result<(), KernelError> {
        if flows.is_empty() {
            return Ok(());
        }
        let batch: String = flows.iter().map(|flow| format!("{flow}\n")).collect();
        match &self.mode {
            // Its exit code tells whether there were flows.
            Mode::Real(runner) => runner.output("conntrack", &["-R", "-"], &batch).await.map(drop),
            Mode::Printed(_) => {
                show("conntrack -R -", &batch);
                Ok(())
            }
        }
    }

    /// Tells when somebody else changes the table; none where nothing is real.
    pub fn monitor(&self) -> Option<Monitor> {
        match &self.mode {
            Mode::Real(runner) => Some(Monitor::new(runner.clone(), &self.table)),
            Mode::Printed(_) => None,
        }
    }
}

fn failures(output: &std::process::Output) -> Result<Option<String>, KernelError> {
    Ok((!output.status.success()).then(|| complaint(output)))
}

fn lock(picture: &Mutex<Picture>) -> std::sync::MutexGuard<'_, Picture> {
    picture.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A script as somebody may read it, or run it.
fn show(command: &str, script: &str) {
    // Whoever read it may have gone.
    let _ = writeln!(std::io::stdout(), "{command} <<'END'\n{script}END");
}
