//! The streams that are followed, and from whom each worker has its blocks.
//!
//! A rank is known when every stream that it depends on is proven: its engine's own, and that of its node's kvd. Its shape is one
//! group for each KV group that either tells of, served by the holders of both.

use super::members::SourceView;
use super::space::Space;
use crate::fleet::{Endpoints, Fleet, InstanceName, NodeSpec, WorkerSpec};
use crate::index::{Group, WorkerShape};
use crate::ingest::HolderView;
use crate::ingest::namespaces::{NamespaceKey, Namespaces};
use crate::ingest::source::{SourceId, SourceKind, SourceSpec, Sources, StreamStatus, StreamView};
use crate::ingest::stream::{Limits, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{error, warn};

/// One stream that is followed.
#[derive(Debug)]
struct Feed {
    id: SourceId,
    kind: SourceKind,
    views: watch::Receiver<Vec<StreamView>>,
    watcher: JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Streams by their source.
pub(super) type Streams = BTreeMap<SourceId, StreamStatus>;

/// Whose stream it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum FeedKey {
    Rank(InstanceName, u32),
    Node(InstanceName),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Feeds {
    sources: Arc<Sources>,
    feeds: BTreeMap<FeedKey, Feed>,
    changed: Arc<Notify>,
    /// Workers of whose model their node's kvd has no layout: each is named once.
    strangers: Mutex<BTreeSet<InstanceName>>,
}

impl Feeds {
    pub fn new(namespaces: Arc<Namespaces>) -> Feeds {
        Feeds {
            sources: Arc::new(Sources::new(namespaces, Limits::default())),
            feeds: BTreeMap::new(),
            changed: Arc::default(),
            strangers: Mutex::default(),
        }
    }

    /// Told whenever the answer of [`Feeds::shape`] may have changed.
    pub fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Follows the streams of everybody in `fleet`, and nobody else's.
    pub fn follow(&mut self, fleet: &Fleet) {
        let workers = fleet.workers().flat_map(|member| (0..member.spec.ranks).map(move |rank| (&member.spec, rank)));
        let ranks = workers.filter_map(|(spec, rank)| Some((FeedKey::Rank(spec.name.clone(), rank), engine(spec, rank)?)));
        let nodes = fleet.nodes().map(|member| (FeedKey::Node(member.spec.name.clone()), kvd(&member.spec)));
        let wanted: BTreeMap<FeedKey, SourceKind> = ranks.chain(nodes).collect();
        let sources = &self.sources;
        self.feeds.retain(|key, feed| {
            let stays = wanted.get(key) == Some(&feed.kind);
            if !stays {
                sources.remove(feed.id);
            }
            stays
        });
        for (key, kind) in wanted {
            if !self.feeds.contains_key(&key) {
                self.start(key, kind);
            }
        }
    }

    fn start(&mut self, key: FeedKey, kind: SourceKind) {
        let name = match &key {
            FeedKey::Rank(name, rank) => format!("worker {name}/{rank}"),
            FeedKey::Node(name) => format!("kvd of {name}"),
        };
        let added = self.sources.add(SourceSpec { name: name.clone(), kind: kind.clone() });
        let views = added.as_ref().ok().and_then(|id| self.sources.views(*id));
        let (Ok(id), Some(views)) = (&added, views) else {
            error!(name, why = added.err().map(|error| error.to_string()), "a stream is not followed");
            return;
        };
        let (mut watched, changed) = (views.clone(), self.changed.clone());
        let watcher = tokio::spawn(async move {
            while watched.changed().await.is_ok() {
                changed.notify_one();
            }
        });
        self.feeds.insert(key, Feed { id: *id, kind, views, watcher });
    }

    /// From whom a rank of a worker of `space` has its blocks, or why that is not known now.
    pub fn shape(&self, spec: &WorkerSpec, rank: u32, space: &Space) -> Result<WorkerShape, String> {
        let mut groups: BTreeMap<u16, Group> = BTreeMap::new();
        if !spec.events.is_empty() {
            let holders = self.holders(&FeedKey::Rank(spec.name.clone(), rank), "its events")?;
            of_rank(holders, rank).iter().for_each(|holder| join(&mut groups, holder));
        }
        if !spec.node.is_empty() {
            let node = format!("the kvd of node `{}`", spec.node);
            let holders = self.holders(&FeedKey::Node(spec.node.as_str().into()), &node)?;
            let there: BTreeSet<String> = holders.iter().map(|holder| holder.namespace.to_string()).collect();
            let mine = of_layouts(holders, spec, &space.index.key)?;
            self.note_stranger(spec, &space.index.key, &there, mine.is_empty());
            mine.iter().for_each(|holder| join(&mut groups, holder));
        }
        if spec.events.is_empty() && spec.node.is_empty() {
            return Err("it has neither `events` nor a `node`".into());
        }
        Ok(WorkerShape { groups: groups.into_values().collect() })
    }

    /// Says once that a worker's kvd has blocks, but none of its model: perhaps no engine stored any yet, perhaps a name is wrong.
    fn note_stranger(&self, spec: &WorkerSpec, wanted: &NamespaceKey, there: &BTreeSet<String>, stranger: bool) {
        let mut strangers = self.strangers.lock().expect("no panic while held");
        if !stranger || there.is_empty() {
            strangers.remove(&spec.name);
        } else if strangers.insert(spec.name.clone()) {
            let there = there.iter().cloned().collect::<Vec<_>>().join(", ");
            warn!(
                worker = %spec.name, node = spec.node, %wanted, there,
                "the kvd of its node has blocks, but none of its model: set `kvd_model`, or `block_tokens`, if one of those is meant"
            );
        }
    }

    /// What a stream holds, if that is proven. `what` names it where it is not.
    fn holders(&self, key: &FeedKey, what: &str) -> Result<Vec<HolderView>, String> {
        let feed = self.feeds.get(key).ok_or_else(|| format!("{what}: not followed; no [[nodes]] tells of it"))?;
        let views = feed.views.borrow();
        let view = views.first().ok_or_else(|| format!("{what}: not followed"))?;
        match (view.state, &view.why) {
            (State::Known { .. }, _) => Ok(view.holders.clone()),
            (State::Unknown(_), Some(why)) => Err(format!("{what}: {why}")),
            (State::Unknown(reason), None) => Err(format!("{what}: {reason}")),
        }
    }

    /// How a rank's own stream is followed, and whether the rank is known.
    pub fn rank(&self, spec: &WorkerSpec, rank: u32, space: Option<&Space>, streams: &Streams) -> SourceView {
        let endpoint = spec.events.of(rank, spec.ranks).unwrap_or_default();
        let status = match space.map(|space| self.shape(spec, rank, space)) {
            Some(Ok(_)) => "known".to_owned(),
            Some(Err(why)) => why,
            None => "its model is not served".to_owned(),
        };
        self.view(&FeedKey::Rank(spec.name.clone(), rank), endpoint, Some(status), streams)
    }

    /// How a node's stream is followed.
    pub fn node(&self, spec: &NodeSpec, streams: &Streams) -> SourceView {
        self.view(&FeedKey::Node(spec.name.clone()), spec.events.clone(), None, streams)
    }

    fn view(&self, key: &FeedKey, endpoint: String, status: Option<String>, streams: &Streams) -> SourceView {
        let stream = self.feeds.get(key).and_then(|feed| streams.get(&feed.id));
        let Some(stream) = stream else {
            return SourceView { endpoint, status: status.unwrap_or_else(|| "not followed".into()), ..SourceView::default() };
        };
        let (complete, own) = match (stream.state, &stream.why) {
            (State::Known { complete }, _) => (complete, "known".to_owned()),
            (State::Unknown(_), Some(why)) => (false, why.clone()),
            (State::Unknown(reason), None) => (false, reason.to_string()),
        };
        let memberships = stream.blocks.iter().sum();
        SourceView { endpoint, status: status.unwrap_or(own), last_event: stream.last_number, complete, memberships }
    }

    /// All that is followed.
    pub fn sources(&self) -> Arc<Sources> {
        self.sources.clone()
    }

    /// Every stream, as operators see it.
    pub fn streams(&self) -> Streams {
        self.sources.status().into_iter().collect()
    }
}

fn engine(spec: &WorkerSpec, rank: u32) -> Option<SourceKind> {
    let of = |endpoints: &Endpoints| endpoints.of(rank, spec.ranks).filter(|address| !address.is_empty());
    Some(SourceKind::Engine {
        events: of(&spec.events)?,
        bind: false,
        replay: of(&spec.replay),
        topic: String::new(),
        ranks: 1,
        model: spec.model_in_kvd().to_owned(),
        block_tokens: Some(spec.block_tokens),
    })
}

fn kvd(spec: &NodeSpec) -> SourceKind {
    let replay = Some(spec.replay.clone()).filter(|replay| !replay.is_empty());
    SourceKind::Kvd { events: spec.events.clone(), replay, admin: spec.admin.clone() }
}

/// A publisher of one rank says which it is, or not; one of several says it of each message.
fn of_rank(holders: Vec<HolderView>, rank: u32) -> Vec<HolderView> {
    let several = holders.iter().any(|holder| holder.rank != holders[0].rank);
    holders.into_iter().filter(|holder| !several || holder.rank == rank).collect()
}

/// Those of a kvd's holders whose blocks a worker can load.
fn of_layouts(holders: Vec<HolderView>, spec: &WorkerSpec, namespace: &NamespaceKey) -> Result<Vec<HolderView>, String> {
    let named = |holder: &HolderView| {
        let id = holder.layout.map(|layout| layout.to_string()).unwrap_or_default();
        spec.kvd_layouts.is_empty() || spec.kvd_layouts.contains(&id)
    };
    let mine: Vec<HolderView> = holders.into_iter().filter(|holder| holder.namespace == *namespace && named(holder)).collect();
    let twice = mine.iter().enumerate().find(|(at, holder)| mine[..*at].iter().any(|before| before.group == holder.group));
    match twice {
        Some((_, holder)) if spec.kvd_layouts.is_empty() => Err(format!(
            "the kvd of node `{}` has several layouts of KV group {} of `{}`: say which are its own with `kvd_layouts`",
            spec.node, holder.group, namespace.model
        )),
        _ => Ok(mine),
    }
}

fn join(groups: &mut BTreeMap<u16, Group>, holder: &HolderView) {
    let group = groups.entry(holder.group).or_insert_with(|| Group { holders: Vec::new(), window: holder.window_blocks });
    group.holders.push(holder.holder);
    // Where publishers differ, whoever needs more is believed.
    group.window = group.window.zip(holder.window_blocks).map(|(one, other)| one.max(other));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::HolderId;
    use kvd_block::LayoutId;

    fn key() -> NamespaceKey {
        NamespaceKey { model: "m".into(), block_tokens: 16 }
    }

    fn holder(id: u16, rank: u32, group: u16, layout: Option<u8>) -> HolderView {
        let layout = layout.map(|byte| LayoutId([byte; 16]));
        HolderView { holder: HolderId(id), namespace: key(), rank, group, layout, window_blocks: None }
    }

    #[test]
    fn an_engine_and_its_kvd_serve_a_group_together() {
        let mut groups = BTreeMap::new();
        for one in [holder(0, 0, 0, None), holder(1, 0, 1, None), holder(2, 0, 0, Some(7))] {
            join(&mut groups, &one);
        }
        assert_eq!(groups[&0].holders, [HolderId(0), HolderId(2)]);
        assert_eq!(groups[&1].holders, [HolderId(1)]);
    }

    #[test]
    fn a_publisher_of_several_ranks_is_taken_apart() {
        let ids = |holders: Vec<HolderView>| holders.into_iter().map(|holder| holder.holder.0).collect::<Vec<_>>();
        assert_eq!(ids(of_rank(vec![holder(0, 0, 0, None), holder(1, 1, 0, None)], 1)), [1]);
        assert_eq!(ids(of_rank(vec![holder(0, 0, 0, None)], 1)), [0], "each rank has a publisher that counts from 0");
    }

    #[test]
    fn two_layouts_of_one_group_must_be_told_apart() {
        let both = || vec![holder(0, 0, 0, Some(1)), holder(1, 0, 0, Some(2))];
        let spec = WorkerSpec { node: "n".into(), ..WorkerSpec::default() };
        assert!(of_layouts(both(), &spec, &key()).unwrap_err().contains("say which are its own with `kvd_layouts`"));
        let spec = WorkerSpec { kvd_layouts: vec![LayoutId([2; 16]).to_string()], ..spec };
        assert_eq!(of_layouts(both(), &spec, &key()).unwrap(), [holder(1, 0, 0, Some(2))]);
    }
}
