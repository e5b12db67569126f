//! ZeroMQ addresses of an engine's data-parallel ranks.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// One address per rank, or one whose port counts up with the rank, as vLLM's do. None when there is nothing to listen to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<String>);

impl Endpoints {
    /// These, one per rank.
    pub fn new(addresses: Vec<String>) -> Endpoints {
        Endpoints(addresses)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was given, as it was given.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// The address of `rank` out of `ranks`.
    pub fn of(&self, rank: u32, ranks: u32) -> Option<String> {
        match self.0.as_slice() {
            [only] if ranks > 1 => counted(only, rank),
            several => several.get(rank as usize).cloned(),
        }
    }

    /// What is wrong with these for an engine of `ranks` ranks.
    pub(super) fn problem(&self, ranks: u32) -> Option<String> {
        let several = self.0.len() > 1;
        if several && self.0.len() != ranks as usize {
            return Some(format!("{} addresses for {ranks} ranks: give one for each, or one whose port counts up", self.0.len()));
        }
        for address in &self.0 {
            if !is_address(address) {
                return Some(format!("`{address}` is no address to connect to: write tcp://host:port or ipc:///path"));
            }
        }
        if !several && ranks > 1 && self.0.iter().any(|address| counted(address, ranks - 1).is_none()) {
            return Some(format!("`{}` cannot count up to rank {}: give one address for each rank", self.0[0], ranks - 1));
        }
        None
    }
}

fn is_address(address: &str) -> bool {
    if let Some(path) = address.strip_prefix("ipc://") {
        return !path.is_empty();
    }
    let Some((host, port)) = address.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')) else { return false };
    // `*` is what an engine binds; a router has to be told which machine that is.
    !host.is_empty() && host != "*" && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `address` with `rank` added to its port.
fn counted(address: &str, rank: u32) -> Option<String> {
    let (host, port) = address.strip_prefix("tcp://")?.rsplit_once(':')?;
    let port = u16::try_from(u32::from(port.parse::<u16>().ok()?) + rank).ok()?;
    Some(format!("tcp://{host}:{port}"))
}

impl Serialize for Endpoints {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => only.serialize(out),
            several => several.serialize(out),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Endpoints, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Endpoints;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"tcp://10.0.0.7:5557\", or a list of them, one per rank")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Endpoints, E> {
                Ok(Endpoints(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }))
            }
            fn visit_unit<E: Error>(self) -> Result<Endpoints, E> {
                Ok(Endpoints::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Endpoints, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = list.next_element()? {
                    addresses.push(address);
                }
                Ok(Endpoints(addresses))
            }
        }
        input.deserialize_any(OneOrMore)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(address: &str) -> Endpoints {
        Endpoints(vec![address.into()])
    }

    #[test]
    fn one_address_counts_up_with_the_rank() {
        assert_eq!(one("tcp://h:5557").of(2, 4), Some("tcp://h:5559".into()));
        assert_eq!(one("tcp://h:5557").of(0, 1), Some("tcp://h:5557".into()));
        assert_eq!(Endpoints::default().of(0, 1), None);
    }

    #[test]
    fn a_list_is_taken_by_rank_and_must_be_complete() {
        let two = Endpoints(vec!["ipc:///a".into(), "ipc:///b".into()]);
        assert_eq!(two.of(1, 2), Some("ipc:///b".into()));
        assert_eq!(two.problem(3).unwrap(), "2 addresses for 3 ranks: give one for each, or one whose port counts up");
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        for bad in ["tcp://*:5557", "tcp://h", "http://h:1", "tcp://h:70000", "ipc://"] {
            assert!(one(bad).problem(1).unwrap().contains(bad), "{bad}");
        }
        assert!(one("ipc:///a").problem(2).unwrap().contains("cannot count up"));
        assert_eq!(one("tcp://h:65535").problem(1), None);
        assert!(one("tcp://h:65535").problem(2).unwrap().contains("cannot count up"));
    }
}
