//! The ways in which machines are broken, and mended.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::machines::{Machines, Which};
use crate::crash::Dice;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Every process ends at once.
    Power,
    KillReplica,
    KillEtcd,
    /// Time stands still for every process.
    Freeze,
    FreezeReplica,
    FreezeEtcd,
    /// The cable is out.
    Unplug,
    /// Nothing comes in, all goes out.
    Deaf,
    /// Nothing goes out, all comes in.
    Mute,
    /// Every fifth packet is lost on its way in, so that others wait for it.
    Lossy,
    /// A narrow link: what is sent stands in a queue for up to 600 ms.
    Slow,
    /// No room on the disc; etcd ends, and has to start without.
    Full,
}

const WAYS: [Way; 12] = [
    Way::Power,
    Way::KillReplica,
    Way::KillEtcd,
    Way::Freeze,
    Way::FreezeReplica,
    Way::FreezeEtcd,
    Way::Unplug,
    Way::Deaf,
    Way::Mute,
    Way::Lossy,
    Way::Slow,
    Way::Full,
];

impl Way {
    async fn begin(self, on: &Machines, machine: usize) -> anyhow::Result<()> {
        match self {
            Self::Power => on.signal(machine, Which::All, "KILL").await,
            Self::KillReplica => on.signal(machine, Which::Replica, "KILL").await,
            Self::KillEtcd => on.signal(machine, Which::Etcd, "KILL").await,
            Self::Freeze => on.signal(machine, Which::All, "STOP").await,
            Self::FreezeReplica => on.signal(machine, Which::Replica, "STOP").await,
            Self::FreezeEtcd => on.signal(machine, Which::Etcd, "STOP").await,
            Self::Unplug => on.cable(machine, false).await,
            Self::Deaf => filter(on, machine, "INPUT -i eth0 -j DROP").await,
            Self::Mute => filter(on, machine, "OUTPUT -o eth0 -j DROP").await,
            Self::Lossy => {
                let some = "-m statistic --mode random --probability 0.2 -j DROP";
                filter(on, machine, &format!("INPUT -i eth0 {some}")).await
            }
            Self::Slow => {
                let narrow = "tc qdisc add dev eth0 root tbf rate 400kbit burst 4kb latency 600ms";
                on.on(machine, &words(narrow)).await.map(drop)
            }
            Self::Full => {
                on.fill(machine, true)?;
                on.signal(machine, Which::Etcd, "KILL").await
            }
        }
    }

    async fn end(self, on: &Machines, machine: usize) -> anyhow::Result<()> {
        match self {
            Self::Power | Self::KillReplica => on.start(machine),
            Self::KillEtcd => Ok(()),
            Self::Freeze => on.signal(machine, Which::All, "CONT").await,
            Self::FreezeReplica => on.signal(machine, Which::Replica, "CONT").await,
            Self::FreezeEtcd => on.signal(machine, Which::Etcd, "CONT").await,
            Self::Unplug => on.cable(machine, true).await,
            Self::Deaf | Self::Mute | Self::Lossy => {
                on.on(machine, &words("iptables -F")).await.map(drop)
            }
            Self::Slow => on.on(machine, &words("tc qdisc del dev eth0 root")).await.map(drop),
            Self::Full => {
                on.fill(machine, false)?;
                // As its supervisor, systemd or the container's, would.
                match on.runs(machine, Which::Replica).await {
                    true => Ok(()),
                    false => on.start(machine),
                }
            }
        }
    }
}

fn words(command: &str) -> Vec<&str> {
    command.split(' ').collect()
}

async fn filter(on: &Machines, machine: usize, rule: &str) -> anyhow::Result<()> {
    on.on(machine, &words(&format!("iptables -A {rule}"))).await.map(drop)
}

/// Breaks machines until the end, at most a minority at a time, but now and then a majority. All is mended when this
/// returns; it says what was done.
pub async fn break_things(
    machines: &Machines,
    count: usize,
    dice: Dice,
    until: Instant,
) -> anyhow::Result<String> {
    let (mut done, mut majorities) = (BTreeMap::<Way, usize>::new(), 0);
    // Each way comes once before one comes again.
    let mut bag = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(2000))).await;
        if bag.is_empty() {
            bag.extend(WAYS);
        }
        let way = bag.swap_remove(dice.index(bag.len()));
        let first = dice.index(count);
        let many = match dice.percent(12) {
            true => count / 2 + 1,
            false => 1 + dice.index(count / 2),
        };
        majorities += u32::from(many > count / 2);
        let victims: Vec<_> = (0..many).map(|n| (first + n) % count).collect();
        for &victim in &victims {
            way.begin(machines, victim).await?;
        }
        tokio::time::sleep(Duration::from_millis(300 + dice.below(4000))).await;
        for &victim in &victims {
            way.end(machines, victim).await?;
        }
        *done.entry(way).or_default() += many;
    }
    let done: Vec<_> = done.iter().map(|(way, times)| format!("{way:?} {times}")).collect();
    Ok(format!("broken: {} ({majorities} times a majority)", done.join(", ")))
}
