//! The network between the client and the servers of a run.
//!
//! Two private network namespaces hold the two ends. In the shaped link they are joined by a pair of TUN
//! devices, and a relay in this process carries packets from one to the other: it lets them out at the link's
//! rate and hands them over after the link's delay. So connections, handshakes and slow start behave as on a
//! real path, which a proxy that ends TCP would hide. `netem` would do the same inside the kernel, but many
//! kernels are built without it.
//!
//! The namespaces have no name: they end with the last process that is in them.

mod namespace;
mod relay;
mod shaper;
mod tun;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

pub(crate) use self::namespace::Namespace;
use self::relay::Relay;
use self::shaper::Shape;

/// Address of the servers on every link.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Name of the device of both ends of a shaped link.
const DEVICE: &str = "link0";

/// The links that can be measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum Kind {
    /// Client and servers in one namespace, over the loopback device: no delay, no limit.
    #[value(name = "loopback")]
    #[serde(rename = "loopback")]
    Loopback,
    /// 1 Gbps with a round trip of 20 ms.
    #[value(name = "1g20")]
    #[serde(rename = "1g20")]
    Gigabit20,
}

impl Kind {
    /// How the link is described in a report.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Gigabit20 => "1 Gbps, 20 ms round trip",
        }
    }
}

/// A link that is up until it is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    client: Namespace,
    server: Namespace,
    device: &'static str,
    /// Carries the packets of a shaped link; its threads end when it is dropped.
    relay: Option<Relay>,
}

impl Link {
    /// Makes the namespaces and whatever joins them. Needs root, or a user namespace with `CAP_NET_ADMIN`.
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        match kind {
            Kind::Loopback => Self::loopback(),
            Kind::Gigabit20 => Self::shaped(&Shape::GIGABIT_20),
        }
    }

    fn loopback() -> Result<Self> {
        let both = Namespace::new().context("cannot make a network namespace")?;
        both.run(|| {
            ip(&["link", "set", "lo", "up"])?;
            ip(&["addr", "add", &format!("{SERVER}/24"), "dev", "lo"])
        })??;
        Ok(Self { client: both.try_clone()?, server: both, device: "lo", relay: None })
    }

    fn shaped(shape: &Shape) -> Result<Self> {
        let (server, server_end) = end(SERVER).context("cannot make the servers' end of the link")?;
        let (client, client_end) = end(CLIENT).context("cannot make the client's end of the link")?;
        let relay = Relay::start(server_end, client_end, shape)?;
        Ok(Self { client, server, device: DEVICE, relay: Some(relay) })
    }

    /// Where what is measured runs.
    pub(crate) fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where registries and other servers run; they listen on [`SERVER`].
    pub(crate) fn server(&self) -> &Namespace {
        &self.server
    }

    /// Bytes that the client has received over the link since it is up.
    pub(crate) fn received(&self) -> Result<u64> {
        let table = self.client.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        received_by(&table, self.device)
            .with_context(|| format!("no counters of {} in /proc/net/dev", self.device))
    }

    /// Processor time that carrying the packets has taken so far: not part of any peer's.
    pub(crate) fn relay_time(&self) -> Duration {
        self.relay.as_ref().map_or(Duration::ZERO, Relay::processor_time)
    }
}

/// Makes one end of a shaped link: a namespace with a TUN device that has `address`.
fn end(address: Ipv4Addr) -> Result<(Namespace, tun::Tun)> {
    let namespace = Namespace::new().context("cannot make a network namespace")?;
    let device = namespace.run(|| -> Result<tun::Tun> {
        let device = tun::Tun::open(DEVICE).context("cannot open a TUN device")?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
        ip(&["link", "set", DEVICE, "mtu", "1500", "txqueuelen", "10000", "up"])?;
        Ok(device)
    })??;
    Ok((namespace, device))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The first column of a device's line in `/proc/net/dev`: bytes received.
fn received_by(table: &str, device: &str) -> Option<u64> {
    table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == device)
        .and_then(|(_, counters)| counters.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests;
