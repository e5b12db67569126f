//! What is said of one worker or node: in the configuration, in a file of the discovery directory, or by itself.

use super::Endpoints;
use crate::settings::ByteSize;
use crate::settings::section::section;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Largest number of data-parallel ranks of an engine.
pub(super) const MAX_RANKS: u32 = 4_096;

/// Name of an engine or node. Numbers are names, too, and are printed as numbers: Dynamo's clients count instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(String);

impl InstanceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for InstanceName {
    fn from(name: &str) -> InstanceName {
        InstanceName(name.into())
    }
}

impl From<String> for InstanceName {
    fn from(name: String) -> InstanceName {
        InstanceName(name)
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for InstanceName {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u64>() {
            // TOML has no unsigned 64-bit numbers; "007" is a name.
            Ok(number) if number <= i64::MAX as u64 && number.to_string() == self.0 => out.serialize_u64(number),
            _ => out.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for InstanceName {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<InstanceName, D::Error> {
        struct Names;
        impl serde::de::Visitor<'_> for Names {
            type Value = InstanceName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<InstanceName, E> {
                Ok(InstanceName(name.into()))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<InstanceName, E> {
                Ok(InstanceName(number.to_string()))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<InstanceName, E> {
                Ok(InstanceName(number.to_string()))
            }
        }
        input.deserialize_any(Names)
    }
}

/// Which requests a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whole requests.
    #[default]
    Both,
    /// Prompts only; another worker decodes.
    Prefill,
    /// What another worker prefilled, or whole requests when none is asked to.
    Decode,
}

section! {
    /// An engine that requests can be sent to.
    WorkerSpec in "workers" many {
        /// Its name, unlike every other's. A number is a name, too.
        name: InstanceName = InstanceName::default(), "required";
        /// The model it serves, by the name requests use.
        model: String = String::new(), "required";
        /// Tokens in a block: the engine's `--block-size` (vLLM) or `--page-size` (SGLang).
        block_tokens: u32 = 0, "required";
        /// Where requests go. Handed to whoever asks for a decision, otherwise unused.
        url: String = String::new(), "\"\"";
        /// Its data-parallel ranks. Each is routed to, and publishes, by itself.
        ranks: u32 = 1, "1";
        /// Where it publishes KV events, such as `"tcp://10.0.0.7:5557"`: one address whose port counts up with the rank, or a list
        /// with one for each rank. vLLM, SGLang and TensorRT-LLM are told apart by what they send. Without any, only its node's kvd
        /// tells where its blocks are.
        events: Endpoints = Endpoints::default(), "[]";
        /// Where it replays them, in the same form. Without any, each lost message costs all that was known of it.
        replay: Endpoints = Endpoints::default(), "[]";
        /// Name of the node (see `[[nodes]]`) whose kvd it loads from.
        node: String = String::new(), "\"\"";
        /// The model's name in that kvd, when it is not `model`: kvd names a model by the last part of its folder, or by its repository.
        kvd_model: String = String::new(), "\"\"";
        /// Layouts of that kvd that are its own, as `kvctl layouts` prints them. Needed only when the kvd has several for one model
        /// and KV group, such as blocks of older weights.
        kvd_layouts: Vec<String> = Vec::new(), "[]";
        /// Which requests it takes: `both`, `prefill` or `decode`.
        role: Role = Role::Both, "\"both\"";
        /// Rack or other neighbourhood of its node: prefill and decode of one request had better be near.
        rack: String = String::new(), "\"\"";
        /// Bytes of KV of one of its blocks, over all layers and ranks: what loading it from memory or disk costs.
        block_bytes: ByteSize = ByteSize(2 << 20), "\"2MiB\"";
        /// Blocks that its devices hold; 0 is not known. A request that does not fit beside those it has waits for their end.
        device_blocks: u64 = 0, "0";
        /// Requests it may have at a time; 0 is no limit. More wait in the router.
        max_requests: u32 = 0, "0";
        /// Prompt tokens not yet computed that it may have waiting; 0 is no limit.
        max_waiting_tokens: u64 = 0, "0";
        /// What requests may require or prefer, such as `{ zone = "a", gpu = "h200" }`.
        labels: BTreeMap<String, String> = BTreeMap::new(), "{}";
        /// LoRA adapters it can serve. Without any, every request's adapter is taken to be there.
        adapters: Vec<String> = Vec::new(), "[]";
    }
}

section! {
    /// A kvd daemon, whose blocks the workers of its node load.
    NodeSpec in "nodes" many {
        /// Its name, as workers refer to it.
        name: InstanceName = InstanceName::default(), "required";
        /// Where it publishes events: `[events] endpoint` of its configuration.
        events: String = String::new(), "required";
        /// Where it replays them: `[events] replay_endpoint`. Without it a lost message costs a snapshot.
        replay: String = String::new(), "\"\"";
        /// Its administration, as `host:port`: `[admin] listen`. Snapshots come from there.
        admin: String = String::new(), "required";
    }
}

/// What is said of a worker or node cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Something must be said.
    #[error("{kind} `{name}` has no `{missing}`: {hint}")]
    Missing {
        /// Worker or node.
        kind: &'static str,
        /// Its name.
        name: InstanceName,
        /// What is not said.
        missing: &'static str,
        /// What to say.
        hint: &'static str,
    },
    /// Something said cannot be.
    #[error("{kind} `{name}`: `{field}`: {why}")]
    Impossible {
        /// Worker or node.
        kind: &'static str,
        /// Its name.
        name: InstanceName,
        /// Which setting.
        field: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
}

impl WorkerSpec {
    /// Refuses what cannot be routed to or listened to.
    pub fn check(&self) -> Result<(), SpecError> {
        let missing = |missing, hint| Err(SpecError::Missing { kind: "worker", name: self.name.clone(), missing, hint });
        let impossible = |field, why| Err(SpecError::Impossible { kind: "worker", name: self.name.clone(), field, why });
        if self.name.as_str().is_empty() {
            return missing("name", "give each worker a name of its own");
        }
        if self.model.is_empty() {
            return missing("model", "name the model it serves");
        }
        if self.block_tokens == 0 {
            return missing("block_tokens", "say how many tokens are in one of its blocks (vLLM: --block-size)");
        }
        if self.ranks == 0 || self.ranks > MAX_RANKS {
            return impossible("ranks", format!("{} is not between 1 and {MAX_RANKS}", self.ranks));
        }
        for (field, endpoints) in [("events", &self.events), ("replay", &self.replay)] {
            if let Some(why) = endpoints.problem(self.ranks) {
                return impossible(field, why);
            }
        }
        if self.events.is_empty() && !self.replay.is_empty() {
            return missing("events", "a replay address alone tells nothing: say where it publishes");
        }
        Ok(())
    }

    /// The name its model has in kvd.
    pub fn model_in_kvd(&self) -> &str {
        if self.kvd_model.is_empty() { &self.model } else { &self.kvd_model }
    }
}

impl NodeSpec {
    /// Refuses what cannot be followed.
    pub fn check(&self) -> Result<(), SpecError> {
        let missing = |missing, hint| Err(SpecError::Missing { kind: "node", name: self.name.clone(), missing, hint });
        if self.name.as_str().is_empty() {
            return missing("name", "give each node a name of its own");
        }
        if self.events.is_empty() {
            return missing("events", "say where its kvd publishes ([events] endpoint)");
        }
        if self.admin.is_empty() {
            return missing("admin", "say where its kvd is administered ([admin] listen)");
        }
        for (field, address) in [("events", &self.events), ("replay", &self.replay)].into_iter().filter(|(_, address)| !address.is_empty())
        {
            if let Some(why) = Endpoints::new(vec![address.clone()]).problem(1) {
                return Err(SpecError::Impossible { kind: "node", name: self.name.clone(), field, why });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_name_and_stays_a_number() {
        let spec: WorkerSpec = serde_json::from_str(r#"{"name": 7, "model": "m", "block_tokens": 16}"#).unwrap();
        assert_eq!((spec.name.as_str(), spec.check()), ("7", Ok(())));
        assert_eq!(serde_json::to_value(&spec.name).unwrap(), 7);
        assert_eq!(serde_json::to_value(InstanceName::from("007")).unwrap(), "007");
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_say() {
        let spec = WorkerSpec { name: "a".into(), model: "m".into(), ..WorkerSpec::default() };
        let text = spec.check().unwrap_err().to_string();
        assert_eq!(text, "worker `a` has no `block_tokens`: say how many tokens are in one of its blocks (vLLM: --block-size)");
    }

    #[test]
    fn a_bad_address_names_the_worker_and_the_setting() {
        let events = Endpoints::new(vec!["tcp://*:5557".into()]);
        let spec = WorkerSpec { name: "a".into(), model: "m".into(), block_tokens: 16, events, ..WorkerSpec::default() };
        assert!(spec.check().unwrap_err().to_string().starts_with("worker `a`: `events`: `tcp://*:5557` is no address"));
    }
}
