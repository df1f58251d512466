//! Connection limits per client address, so that one address leaves connections for the others.
//!
//! IPv4 clients are counted by address, IPv6 clients by /64, since one host may have a whole /64. Load
//! balancers that the operator trusts serve many clients and are not limited.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::config::IpNetwork;
use crate::kernel::fair_slots::{FairSlot, FairSlots, SlotLimits};

/// The connection limits. See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionShares {
    slots: FairSlots<IpAddr>,
    trusted: Arc<[IpNetwork]>,
}

/// A connection's slot in the share of its address; `None` if the address is trusted.
pub(crate) type ConnectionShare = Option<FairSlot<IpAddr>>;

impl ConnectionShares {
    /// Creates the limits: `total` connections, of which one address may have `per_address`.
    pub(crate) fn new(total: usize, per_address: usize, trusted: &[IpNetwork]) -> Self {
        let limits = SlotLimits {
            total,
            per_key: per_address,
            waiting_per_key: 0,
        };
        Self {
            slots: FairSlots::new(limits),
            trusted: trusted.into(),
        }
    }

    /// Takes a slot for a new connection. `None`: the address has reached its limit.
    pub(crate) fn try_admit(&self, peer: IpAddr) -> Option<ConnectionShare> {
        if self.trusted.iter().any(|network| network.contains(peer)) {
            return Some(None);
        }
        self.slots.try_acquire(&address_key(peer)).map(Some)
    }
}

fn address_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// Rejects a connection with a page, without waiting: the cost is this call only.
pub(crate) fn reject_connection(stream: TcpStream, page: &'static [u8]) {
    // Best effort: the send buffer of a new socket has room for the page; otherwise the client gets none.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_limit_each_address_except_trusted_ones() {
        let trusted: IpNetwork = "10.0.0.0/8".parse().unwrap();
        let shares = ConnectionShares::new(4, 2, &[trusted]);
        let from = |text: &str| shares.try_admit(text.parse().unwrap());
        let one = from("192.0.2.1").unwrap();
        let two = from("::ffff:192.0.2.1").unwrap();
        assert!(from("192.0.2.1").is_none(), "in either form");
        let _other = from("2001:db8::1").unwrap();
        let _same_network = from("2001:db8::ffff:1").unwrap();
        assert!(from("2001:db8::2").is_none());
        assert!(from("2001:db8:0:1::2").is_none(), "all are taken");
        for _ in 0..100 {
            assert!(from("10.1.2.3").is_some());
        }
        drop((one, two));
        assert!(from("192.0.2.1").is_some());
    }
}
