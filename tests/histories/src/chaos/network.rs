//! Members in network namespaces of their own, on one bridge, whose packets to each other can be dropped.
//!
//! ```text
//!   root namespace (clients)          namespace NAME-wire            namespace NAME-0 (a member)
//!   NAME 198.18.S.254 ──────────────► root ┬ bridge ┬ p0 ◄───────────── u0 198.18.S.1   nft: inet cut
//!                                          │        ├ p1 …
//! ```
//!
//! The bridge has a namespace of its own, because rules of the machine's own firewall may hold for bridged packets, too.
//!
//! Must hold: clients reach every member all the time: what is cut is between members.
//!
//! Left to others: removing it all (`Scratch`).

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};

use crate::chaos::scratch::{Scratch, run};
use crate::cluster::Home;

/// Networks for measurements inside a machine, which nobody routes: 198.18.0.0/15.
const FIRST_OCTETS: [u8; 2] = [198, 18];
/// The client's place in the network.
const CLIENT: u8 = 254;

/// A bridge with members on it.
pub struct Network {
    name: String,
    subnet: [u8; 3],
    members: u8,
}

impl Network {
    /// Makes a bridge and a place for each of these members.
    pub fn make(scratch: &Scratch, members: usize) -> Result<Self> {
        let mut network = Network { name: scratch.name().to_owned(), subnet: free_subnet()?, members: 0 };
        let (name, wire) = (network.name.clone(), network.namespace("wire"));
        run(&["ip", "netns", "add", &wire])?;
        run(&["ip", "-n", &wire, "link", "add", "bridge", "type", "bridge"])?;
        run(&["ip", "-n", &wire, "link", "set", "bridge", "up"])?;
        run(&["ip", "link", "add", &name, "type", "veth", "peer", "name", "root", "netns", &wire])?;
        run(&["ip", "-n", &wire, "link", "set", "root", "master", "bridge", "up"])?;
        run(&["ip", "link", "set", &name, "up"])?;
        run(&["ip", "addr", "add", &format!("{}/24", network.address(CLIENT)), "dev", &name])?;
        for _ in 0..members {
            network.join()?;
        }
        Ok(network)
    }

    /// Makes a place for another member.
    pub fn join(&mut self) -> Result<Home> {
        let member = usize::from(self.members);
        ensure!(self.members < CLIENT - 1, "the network is full");
        let (wire, own) = (self.namespace("wire"), self.namespace(&member.to_string()));
        let port = format!("p{member}");
        run(&["ip", "netns", "add", &own])?;
        run(&["ip", "-n", &wire, "link", "add", &port, "type", "veth", "peer", "name", "u0", "netns", &own])?;
        run(&["ip", "-n", &wire, "link", "set", &port, "master", "bridge", "up"])?;
        run(&["ip", "-n", &own, "link", "set", "lo", "up"])?;
        run(&["ip", "-n", &own, "link", "set", "u0", "up"])?;
        run(&["ip", "-n", &own, "addr", "add", &format!("{}/24", self.of(member)), "dev", "u0"])?;
        nft(&own, "add table inet cut")?;
        nft(&own, "add chain inet cut in { type filter hook input priority 0; policy accept; }")?;
        self.members += 1;
        Ok(self.home(member))
    }

    /// Where a member lives.
    pub fn home(&self, member: usize) -> Home {
        let namespace = Some(self.namespace(&member.to_string()));
        Home { address: IpAddr::V4(self.of(member)), namespace, ..Home::default() }
    }

    /// Where all members live.
    pub fn homes(&self) -> Vec<Home> {
        (0..usize::from(self.members)).map(|member| self.home(member)).collect()
    }

    /// From now on nothing arrives that `from` sends to `to`.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let rule = format!("add rule inet cut in ip saddr {} drop", self.of(from));
        nft(&self.namespace(&to.to_string()), &rule)
    }

    /// From now on of a hundred packets between a member and the others so many are lost, either way.
    pub fn lose(&self, member: usize, percent: u32) -> Result<()> {
        for other in (0..usize::from(self.members)).filter(|other| *other != member) {
            for (from, to) in [(member, other), (other, member)] {
                let rule =
                    format!("add rule inet cut in ip saddr {} numgen random mod 100 < {percent} drop", self.of(from));
                nft(&self.namespace(&to.to_string()), &rule)?;
            }
        }
        Ok(())
    }

    /// Everything arrives again.
    pub fn heal(&self) -> Result<()> {
        (0..self.members).try_for_each(|member| nft(&self.namespace(&member.to_string()), "flush chain inet cut in"))
    }

    fn namespace(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    fn of(&self, member: usize) -> Ipv4Addr {
        self.address(u8::try_from(member + 1).unwrap_or(u8::MAX))
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [one, two, three] = self.subnet;
        Ipv4Addr::new(one, two, three, last)
    }
}

fn nft(namespace: &str, command: &str) -> Result<()> {
    run(&["ip", "netns", "exec", namespace, "nft", command]).context("nftables")?;
    Ok(())
}

/// A subnet that no interface of this namespace is in.
fn free_subnet() -> Result<[u8; 3]> {
    let taken = run(&["ip", "-4", "-o", "addr"])?;
    let [one, two] = FIRST_OCTETS;
    let subnets = (0..512).map(|_| [one, two + rand::random::<u8>() % 2, rand::random()]);
    let mut free = subnets.filter(|[one, two, three]| !taken.contains(&format!(" {one}.{two}.{three}.")));
    free.next().context("every subnet of 198.18.0.0/15 is taken")
}
