//! The network between machines: a bridge on one of them, and a cable (veth) from each other machine to it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::machine::Machine;

/// The port of etcd for its peers.
const PEER_PORT: &str = "2380";

/// Creates a bridge in the first machine's network, and a cable from each other machine to it. Machine number N, counted from
/// 0, has [`address`] N.
pub fn connect(machines: &[Machine]) -> Result<()> {
    let [hub, others @ ..] = machines else { return Ok(()) };
    ensure!(!others.is_empty(), "a network needs more than one machine");
    create_hub(hub)?;
    others.iter().enumerate().try_for_each(|(number, other)| plug(hub, number + 1, other))
}

/// Returns the address of a machine.
pub fn address(number: usize) -> String {
    format!("10.9.9.{}", number + 1)
}

fn client_address(number: usize) -> String {
    format!("10.9.8.{}", number + 1)
}

/// Creates the bridge. The machine has [`address`] 0.
pub fn create_hub(hub: &Machine) -> Result<()> {
    // Otherwise it would take the address of a cable, and change it with the cables.
    hub.ip(&["link", "add", "hub", "address", "02:00:00:00:00:00", "type", "bridge"])?;
    hub.ip(&["address", "add", &format!("{}/24", address(0)), "dev", "hub"])?;
    hub.ip(&["link", "set", "hub", "up"])
}

/// Connects a machine to the bridge: once, and again after each boot.
pub fn plug(hub: &Machine, number: usize, machine: &Machine) -> Result<()> {
    let (here, init) = (cable(number), machine.init()?.to_string());
    // The kernel may still be removing the cable to a machine that was switched off.
    let _ = hub.ip(&["link", "delete", &here]);
    hub.ip(&["link", "add", &here, "type", "veth", "peer", "name", "cable", "netns", &init])?;
    hub.ip(&["link", "set", &here, "master", "hub", "up"])?;
    // Others remember it.
    machine.ip(&["link", "set", "cable", "address", &format!("02:00:00:00:00:{number:02x}")])?;
    machine.ip(&["address", "add", &format!("{}/24", address(number)), "dev", "cable"])?;
    machine.ip(&["link", "set", "cable", "up"])
}

/// Cuts a machine off from all others, or connects it again.
pub fn set_connected(hub: &Machine, number: usize, is_connected: bool) -> Result<()> {
    hub.ip(&["link", "set", &cable(number), if is_connected { "up" } else { "down" }])
}

fn cable(number: usize) -> String {
    format!("cable{number}")
}

/// A network whose machines can be cut off, moved to another address, and booted again.
pub struct Network<'m> {
    hub: &'m Machine,
    machines: &'m [Machine],
    /// The cut off machines, by their place in `machines`.
    cut_off: RefCell<BTreeSet<usize>>,
    /// The machines with another address than [`address`].
    moved: RefCell<BTreeSet<usize>>,
}

impl<'m> Network<'m> {
    /// Connects the machines to a bridge on `hub`.
    pub fn create(hub: &'m Machine, machines: &'m [Machine]) -> Result<Self> {
        let network = Self { hub, machines, cut_off: RefCell::default(), moved: RefCell::default() };
        create_hub(hub)?;
        (0..machines.len()).try_for_each(|place| network.plug(place))?;
        Ok(network)
    }

    /// Returns the address of a machine.
    pub fn address(&self, place: usize) -> String {
        address(if self.moved.borrow().contains(&place) { place + 101 } else { place + 1 })
    }

    /// Returns the address of a machine in the network for clients.
    pub fn client_address(&self, place: usize) -> String {
        client_address(place + 1)
    }

    /// Gives a machine, and the hub, an address in the network for clients, which uses the same cables. Returns that of the
    /// machine, which loses it with its power.
    pub fn add_client_address(&self, place: usize) -> Result<String> {
        let replace = |machine: &Machine, number: usize, dev: &str| {
            machine.ip(&["address", "replace", &format!("{}/24", client_address(number)), "dev", dev])
        };
        replace(self.hub, 0, "hub")?;
        replace(&self.machines[place], place + 1, "cable")?;
        Ok(self.client_address(place))
    }

    fn plug(&self, place: usize) -> Result<()> {
        plug(self.hub, place + 1, &self.machines[place])?;
        self.replace_address(place)?;
        let is_connected = !self.cut_off.borrow().contains(&place);
        set_connected(self.hub, place + 1, is_connected)
    }

    fn replace_address(&self, place: usize) -> Result<()> {
        let machine = &self.machines[place];
        machine.ip(&["address", "flush", "dev", "cable", "scope", "global"])?;
        machine.ip(&["address", "add", &format!("{}/24", self.address(place)), "dev", "cable"])
    }

    /// Boots a machine and connects it, as it was before.
    pub fn boot(&self, machine: &Machine) -> Result<()> {
        let place = self.machines.iter().position(|other| std::ptr::eq(other, machine));
        let place = place.context("the machine is not in this network")?;
        machine.switch_on_connected(&|| self.plug(place))
    }

    /// Cuts a machine off from all others, or connects it again. If it is off, this takes effect when it boots.
    pub fn set_connected(&self, place: usize, is_connected: bool) -> Result<()> {
        match is_connected {
            true => self.cut_off.borrow_mut().remove(&place),
            false => self.cut_off.borrow_mut().insert(place),
        };
        match self.machines[place].init() {
            Ok(_) => set_connected(self.hub, place + 1, is_connected),
            // Its cable is gone.
            Err(_) => Ok(()),
        }
    }

    /// Makes a machine unable to exchange messages with the peers of its etcd, or able to again. Their clients' ports are still
    /// reached.
    pub fn set_peers_connected(&self, place: usize, are_connected: bool) -> Result<()> {
        let action = if are_connected { "delete" } else { "add" };
        for port in ["dport", "sport"] {
            self.machines[place].ip(&["rule", action, "ipproto", "tcp", port, PEER_PORT, "blackhole"])?;
        }
        Ok(())
    }

    /// Gives a machine its other address.
    pub fn move_machine(&self, place: usize) -> Result<()> {
        let is_moved = self.moved.borrow_mut().remove(&place);
        if !is_moved {
            self.moved.borrow_mut().insert(place);
        }
        self.replace_address(place)
    }
}
