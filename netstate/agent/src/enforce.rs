//! Brings the kernel to what is wanted, and back to it when somebody else changed it.
//!
//! Must hold: what takes permissions away is done first and in one transaction; a step that fails leaves the kernel at what
//! it enforced before; every step may be repeated.
//!
//! Left to others: what is wanted (`plan`), and when to look again (`agent`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use netstate_model::EndpointId;

use crate::{
    kernel::{Kernel, KernelError},
    plan::{self, Device, Element, Flow, Held, Link, Program, Routes, SetKind, SetName, Sets, Wanted},
};

/// What became of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why what is wanted is not in force; none: it is.
    pub problem: Option<String>,
    /// What is missing although nobody's permission depends on it: interfaces and routes. To be tried again.
    pub notes: Vec<String>,
    /// Whether something had to be put right that nobody here had asked to change.
    pub repaired: bool,
    /// Flows that the step stopped and that connection tracking should forget.
    pub flows: Vec<Flow>,
}

/// The agent's hold on the kernel.
#[derive(Debug)]
pub struct Enforcer {
    kernel: Kernel,
    underlay: IpAddr,
    /// What the table holds, as far as known; none: has to be read.
    held: Option<Held>,
    /// The rules as the kernel lists them, since they were last written; none: not written yet.
    rules: Option<String>,
    routes: Option<Routes>,
    /// Interfaces that were completed since this agent started.
    plumbed: BTreeMap<EndpointId, Device>,
    forwarding: BTreeSet<&'static str>,
}

impl Enforcer {
    /// A hold on a kernel of which nothing is known yet.
    pub fn new(kernel: Kernel, underlay: IpAddr) -> Self {
        Enforcer {
            kernel,
            underlay,
            held: None,
            rules: None,
            routes: None,
            plumbed: BTreeMap::new(),
            forwarding: BTreeSet::new(),
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Whether the table is there from an earlier run.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn table_exists(&self) -> Result<bool, KernelError> {
        Ok(self.kernel.found().await?.is_some())
    }

    /// Puts the rules in place and leaves the elements as they are found: for an agent that has yet to hear what is wanted.
    /// Where there was no table, everything from endpoints is dropped from now on.
    pub async fn hold(&mut self) -> Outcome {
        let found = match self.kernel.found().await {
            Ok(found) => found.unwrap_or_default(),
            Err(error) => return failed(&error),
        };
        let wanted = found.held.sets.clone();
        self.held = Some(found.held);
        match self.table(&wanted, false).await {
            Ok((flows, repaired)) => Outcome { flows, repaired, ..Outcome::default() },
            Err(error) => failed(&error),
        }
    }

    /// Brings the kernel to what is wanted. When `thorough`, compares with what the kernel really holds; otherwise with what
    /// it was last made to hold.
    pub async fn enforce(&mut self, wanted: &Wanted, thorough: bool) -> Outcome {
        let (flows, repaired) = match self.table(&wanted.sets, thorough).await {
            Ok(done) => done,
            Err(error) => {
                // Nothing is known any more: the next attempt reads everything.
                self.held = None;
                return failed(&error);
            }
        };
        let mut notes = wanted.notes.clone();
        if let Err(error) = self.paths(wanted, thorough, &mut notes).await {
            self.routes = None;
            notes.push(text(&error));
        }
        let problem = (!wanted.problems.is_empty()).then(|| wanted.problems.join("; "));
        Outcome { problem, notes, repaired, flows }
    }

    /// The table, in one transaction.
    async fn table(&mut self, wanted: &Sets, thorough: bool) -> Result<(Vec<Flow>, bool), KernelError> {
        let (mut write_rules, mut foreign, mut repaired) = (self.rules.is_none(), false, false);
        if thorough || self.held.is_none() {
            let found = self.kernel.found().await?;
            let found = found.unwrap_or_else(|| {
                write_rules = true;
                Default::default()
            });
            // Before the first writing, whatever is there is of an earlier run, maybe of another version.
            write_rules |= self.rules.as_ref().is_some_and(|rules| *rules != found.rules);
            foreign = found.foreign;
            let expected = self.held.replace(found.held);
            repaired = expected.is_some_and(|expected| Some(&expected) != self.held.as_ref());
            repaired |= self.rules.is_some() && write_rules;
        }
        let held = self.held.get_or_insert_default();
        let table = self.kernel.table();
        let step = if foreign {
            Some(plan::from_nothing(table, wanted))
        } else {
            plan::program(table, held, wanted, write_rules)
        };
        let Some(step) = step else { return Ok((Vec::new(), repaired)) };
        let step = match self.kernel.program(&step, wanted).await {
            Ok(()) => step,
            Err(error) => {
                tracing::warn!(%error, "transaction refused; making the table anew");
                self.anew(wanted).await?
            }
        };
        let quarantined = self.held.as_ref().map_or(Vec::new(), |held| quarantined(&held.sets, wanted));
        self.held = Some(Held { sets: wanted.clone(), strange: Vec::new() });
        // Only once: what is listed later may have been changed by others in the meantime.
        if self.rules.is_none() {
            self.rules = Some(self.kernel.found().await?.unwrap_or_default().rules);
        }
        Ok((plan::flows_cut(&step.removed, wanted, &quarantined), repaired || foreign))
    }

    /// The last resort, for a table whose structure somebody changed: still one transaction.
    async fn anew(&self, wanted: &Sets) -> Result<Program, KernelError> {
        let all = plan::from_nothing(self.kernel.table(), wanted);
        self.kernel.program(&all, wanted).await?;
        Ok(all)
    }

    /// Interfaces and routes.
    async fn paths(&mut self, wanted: &Wanted, thorough: bool, notes: &mut Vec<String>) -> Result<(), KernelError> {
        self.links(&wanted.links, thorough, notes).await?;
        self.forwarding(&wanted.routes).await?;
        let held = match &self.routes {
            Some(routes) if !thorough => routes.clone(),
            _ => self.kernel.routes().await?,
        };
        let mut possible = wanted.routes.clone();
        let plumbed: BTreeSet<Device> = self.plumbed.values().copied().collect();
        possible.retain(|_, route| !matches!(route, plan::Route::Device(device) if !plumbed.contains(device)));
        let complaint = self.kernel.ip(&plan::replace_routes(&held, &possible)).await?;
        self.kernel.note_routes(&possible);
        // What was complained about is read again before it is tried again.
        self.routes = complaint.is_none().then_some(possible);
        notes.extend(complaint.map(|complaint| format!("some routes are missing: {complaint}")));
        Ok(())
    }

    async fn links(&mut self, wanted: &[Link], thorough: bool, notes: &mut Vec<String>) -> Result<(), KernelError> {
        let keep: BTreeMap<EndpointId, Device> = wanted.iter().map(|link| (link.endpoint, link.device)).collect();
        let settled = self.plumbed == keep;
        if settled && !thorough {
            return Ok(());
        }
        let there = self.kernel.devices().await?;
        let stale: String =
            there.iter().filter(|it| !keep.values().any(|kept| kept == *it)).map(|it| plan::unplumb(*it)).collect();
        if let Some(complaint) = self.kernel.ip(&stale).await? {
            notes.push(format!("some interfaces are left over: {complaint}"));
        }
        self.plumbed.retain(|endpoint, device| keep.get(endpoint) == Some(device) && there.contains(device));
        for link in wanted.iter().filter(|link| !self.plumbed.contains_key(&link.endpoint)).collect::<Vec<_>>() {
            match self.plumb(link, there.contains(&link.device)).await? {
                None => drop(self.plumbed.insert(link.endpoint, link.device)),
                Some(complaint) => notes.push(format!("{} has no interface yet: {complaint}", link.endpoint)),
            }
        }
        self.kernel.note_devices(self.plumbed.values().copied().collect());
        Ok(())
    }

    /// Makes or completes one interface; gives what is in the way.
    async fn plumb(&self, link: &Link, exists: bool) -> Result<Option<String>, KernelError> {
        if !self.kernel.is_printed() && !Path::new(link.netns.as_str()).exists() {
            return Ok(Some(format!("there is no namespace {}; it is made as soon as there is", link.netns)));
        }
        let steps = plan::plumb(link);
        if !exists && let Some(complaint) = self.kernel.ip(&steps.create).await? {
            // Left from an agent that died here, and down.
            if !complaint.contains("File exists") {
                return Ok(Some(complaint));
            }
        }
        if let Some(complaint) = self.kernel.ip_within(&link.netns, &steps.within).await? {
            return Ok(Some(complaint));
        }
        if let Some(complaint) = self.kernel.ip(&steps.host).await? {
            return Ok(Some(complaint));
        }
        self.kernel.sysctls(&plan::sysctls(link.device)).await?;
        Ok(None)
    }

    /// Lets packets from other hosts through to endpoints. Only what is needed: forwarding is set for the interface that has
    /// the underlay address, and for IPv6, which knows no such difference, for all.
    async fn forwarding(&mut self, routes: &Routes) -> Result<(), KernelError> {
        let v6 = routes.keys().any(|net| net.addr().is_ipv6());
        if v6 && self.forwarding.insert("IPv6") {
            self.kernel.sysctls(&[("ipv6/conf/all/forwarding".to_owned(), "1")]).await?;
        }
        let v4 = routes.keys().any(|net| net.addr().is_ipv4());
        if v4 && !self.forwarding.contains("IPv4") {
            let interface = self.kernel.interface_of(self.underlay).await?;
            if let Some(interface) = interface.filter(|name| is_plain(name)) {
                self.kernel.sysctls(&[(format!("ipv4/conf/{interface}/forwarding"), "1")]).await?;
                self.forwarding.insert("IPv4");
            }
        }
        Ok(())
    }
}

fn quarantined(before: &Sets, after: &Sets) -> Vec<IpAddr> {
    let sets = SetName::all().into_iter().filter(|set| set.kind == SetKind::Quarantine);
    let address = |element: &Element| if let Element::Address(address) = element { Some(*address) } else { None };
    sets.flat_map(|set| {
        let old = before.get(set);
        after.get(set).iter().filter(move |element| old.binary_search(element).is_err()).filter_map(address)
    })
    .collect()
}

/// An interface's name that means nothing to a shell.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) && !name.starts_with('.')
}

fn failed(error: &KernelError) -> Outcome {
    Outcome { problem: Some(text(error)), ..Outcome::default() }
}

/// An error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
