//! `bench-etcd fleet`: thousands of simulated hosts, against Netstate and, where it can do the work, against etcd.
//!
//! Must hold: the figures are those that `netstate bench fleet` prints; here servers are started, figures compared and written
//! down.

mod curve;
mod page;
mod rows;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::system::{Programs, System};

/// Whatever a scene does takes less, or is stuck.
const SCENE_WITHIN: Duration = Duration::from_secs(1800);
/// How patient the program that plays hosts is.
const PATIENCE: &str = "120s";
const PREFIX: &str = "fleet";
/// Netstate's Raft groups: one for each core of the machine that the bars are for.
const GROUPS: u16 = 2;

/// How to measure fleets.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// A fiftieth of everything, to try it out
    #[arg(long)]
    quick: bool,
    /// Measure only these scenes
    #[arg(long, value_delimiter = ',')]
    only: Vec<Scene>,
    #[command(flatten)]
    programs: Programs,
    /// Where the servers keep data, removed afterwards, and logs
    #[arg(long, default_value = "target/bench-etcd")]
    dir: PathBuf,
    /// Files to write, without their endings .md, .svg and .json [default: docs/benchmarks-fleet, or DIR/fleet unless all is measured in full]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scene {
    /// 5,000 hosts, for etcd as well.
    Compared,
    /// The same with changes that concern some 600 hosts each: as near to 800 as two of its networks come.
    Wide,
    /// 10,000 hosts with a million endpoints.
    Full,
    /// Hosts with some 20 networks each that have nothing to do.
    Idle,
    /// A change that concerns one host of 10,000.
    OneOfMany,
    /// A change that concerns one host of 100.
    OneOfFew,
}

/// How large a scene is.
struct Scale {
    hosts: u32,
    networks: u32,
    endpoints: u64,
    rate: u32,
    concerned: u32,
    /// Options of `netstate bench fleet` beyond numbers.
    parts: &'static [&'static str],
}

impl Scene {
    const ALL: [Scene; 6] = [Scene::Compared, Scene::Wide, Scene::Full, Scene::Idle, Scene::OneOfMany, Scene::OneOfFew];

    fn systems(self) -> &'static [System] {
        match self {
            Scene::Compared | Scene::Wide => &System::ALL,
            _ => &[System::Netstate],
        }
    }

    fn scale(self) -> Scale {
        const LITTLE: &[&str] = &["--time", "10s", "--no-saturate", "--no-return"];
        let scale = |hosts, networks, endpoints, rate, concerned, parts| Scale {
            hosts,
            networks,
            endpoints,
            rate,
            concerned,
            parts,
        };
        match self {
            Scene::Compared => scale(5_000, 5_000, 50_000, 1_000, 50, &["--time", "20s"]),
            Scene::Wide => scale(5_000, 5_000, 50_000, 50, 800, &["--time", "20s", "--no-return"]),
            Scene::Full => scale(10_000, 10_000, 1_000_000, 1_000, 50, &["--time", "20s", "--slow", "--kill"]),
            Scene::Idle => scale(2_000, 4_000, 320_000, 10, 50, LITTLE),
            Scene::OneOfMany => scale(10_000, 10_000, 30_000, 500, 2, LITTLE),
            Scene::OneOfFew => scale(100, 10_000, 30_000, 500, 2, LITTLE),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Scene::Compared => "compared",
            Scene::Wide => "wide",
            Scene::Full => "full",
            Scene::Idle => "idle",
            Scene::OneOfMany => "one-of-many",
            Scene::OneOfFew => "one-of-few",
        }
    }
}

impl Scale {
    fn quick(self) -> Scale {
        const PART: u32 = 50;
        let endpoints = self.endpoints / u64::from(PART);
        Scale {
            hosts: (self.hosts / PART).max(50),
            networks: (self.networks / PART).max(20),
            endpoints: endpoints.max(1000),
            rate: self.rate / 10,
            concerned: self.concerned.min(20),
            parts: self.parts,
        }
    }

    /// The numbers that load and fleet have to agree about.
    fn plan(&self) -> Vec<String> {
        let numbers = [("--hosts", u64::from(self.hosts)), ("--networks", self.networks.into())];
        let mut plan = vec!["--prefix".to_owned(), PREFIX.to_owned()];
        for (name, number) in numbers.into_iter().chain([("--endpoints", self.endpoints)]) {
            plan.extend([name.to_owned(), number.to_string()]);
        }
        plan
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fleets {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) played: Vec<Played>,
}

/// One scene on one system, as `netstate bench fleet -o json` tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Played {
    pub(crate) scene: Scene,
    pub(crate) system: System,
    pub(crate) told: Value,
}

impl Fleets {
    /// One figure, by its JSON pointer.
    pub(crate) fn figure(&self, scene: Scene, system: System, pointer: &str) -> Option<f64> {
        self.told(scene, system)?.pointer(pointer)?.as_f64()
    }

    pub(crate) fn told(&self, scene: Scene, system: System) -> Option<&Value> {
        self.played.iter().find(|played| (played.scene, played.system) == (scene, system)).map(|played| &played.told)
    }
}

/// Plays all scenes, writes the page, the plot and the figures, and prints the table.
pub(crate) async fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.dir).with_context(|| format!("cannot create {}", options.dir.display()))?;
    let programs = &options.programs;
    let scenes: Vec<_> =
        Scene::ALL.into_iter().filter(|scene| options.only.is_empty() || options.only.contains(scene)).collect();
    let machine = Machine::look(programs, &options.dir, &System::ALL)?;
    let mut fleets = Fleets { machine, quick: options.quick, played: Vec::new() };
    let progress = Progress::new(scenes.iter().map(|scene| scene.systems().len() as u64).sum());
    for scene in scenes {
        for &system in scene.systems() {
            progress.begin(format!("{}, {}", scene.name(), system.name()));
            let playing = play(options, scene, system, &progress);
            let told = timeout(SCENE_WITHIN, playing)
                .await
                .with_context(|| format!("it took longer than {SCENE_WITHIN:?}"))
                .flatten()
                .with_context(|| format!("{} on {} failed", scene.name(), system.name()))?;
            progress.end("done");
            fleets.played.push(Played { scene, system, told });
            write(options, &fleets)?;
        }
    }
    drop(progress);
    print!("{}", page::table(&fleets));
    Ok(())
}

fn write(options: &Options, fleets: &Fleets) -> Result<()> {
    let whole = options.only.is_empty() && !options.quick;
    let default = || if whole { "docs/benchmarks-fleet".into() } else { options.dir.join("fleet") };
    let base = options.output.clone().unwrap_or_else(default);
    let path = |ending: &str| PathBuf::from(format!("{}.{ending}", base.display()));
    let plot = path("svg");
    let name = plot.file_name().unwrap_or_default().to_string_lossy().into_owned();
    crate::write(&path("json"), &(serde_json::to_string_pretty(fleets)? + "\n"))?;
    crate::write(&plot, &curve::svg(fleets))?;
    crate::write(&path("md"), &page::page(fleets, &name))
}

async fn play(options: &Options, scene: Scene, system: System, progress: &Progress) -> Result<Value> {
    let programs = &Programs { groups: Some(GROUPS), ..options.programs.clone() };
    let scale = if options.quick { scene.scale().quick() } else { scene.scale() };
    let mut cluster = Cluster::start(system, programs, &options.dir, &format!("fleet-{}", scene.name())).await?;
    let servers: Vec<_> =
        cluster.endpoints().iter().map(|address| address.trim_start_matches("http://").to_owned()).collect();
    let servers = servers.join(",");
    let mut fleet = vec!["bench".to_owned(), "fleet".to_owned()];
    fleet.extend(scale.plan());
    match system {
        System::Netstate => {
            progress.doing("loading");
            let mut load = vec!["bench".to_owned(), "load".to_owned(), "--servers".to_owned(), servers.clone()];
            load.extend(scale.plan());
            netstate(programs, &load).await?;
            fleet.extend(["--servers".to_owned(), servers]);
        }
        System::Etcd => fleet.extend(["--etcd".to_owned(), servers]),
    }
    progress.doing("playing hosts");
    let pids: Vec<_> = cluster.pids().iter().map(ToString::to_string).collect();
    let numbers = [("--rate", scale.rate), ("--concerned", scale.concerned)];
    fleet.extend(numbers.iter().flat_map(|(name, number)| [(*name).to_owned(), number.to_string()]));
    fleet.extend(["--pids".to_owned(), pids.join(",")]);
    fleet.extend(scale.parts.iter().map(|part| (*part).to_owned()));
    let told = netstate(programs, &fleet).await;
    // A server that died explains more than what its clients saw of it; one that was to die is none.
    if !scale.parts.contains(&"--kill") {
        cluster.check_alive()?;
    }
    told
}

/// Runs the program and reads what it says.
async fn netstate(programs: &Programs, arguments: &[String]) -> Result<Value> {
    let mut command = Command::new(absolute(&programs.netstate)?);
    let output = command
        .args(arguments)
        .args(["--timeout", PATIENCE, "-o", "json"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run netstate")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "netstate {} said: {}", arguments.join(" "), said.trim());
    serde_json::from_slice(&output.stdout).context("netstate answered with something else than JSON")
}

fn absolute(program: &Path) -> Result<PathBuf> {
    program.canonicalize().with_context(|| format!("there is no {}", program.display()))
}
