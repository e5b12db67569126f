//! Joins edges that follow one another into the events engines publish: one per run of blocks.

use super::feed::{Content, EdgeFact, Numbered};
use crate::layouts::Layouts;
use kvd_block::image::{self, HeaderPage};
use kvd_block::{BlockHeader, BlockKey, LayoutHandle, LocalHash, ResidencyEdge, SequenceHash, TierKind};
use kvd_proto::wire::kv_event::{BlockRemoved, BlockStored, KvEvent};
use kvd_shm::Arena;
use serde_bytes::ByteBuf;

/// The events of `content`, at least one.
fn events(content: Content, layouts: &Layouts, arena: &Arena) -> Vec<KvEvent> {
    let mut events = Merged::default();
    match content {
        Content::Cleared => return vec![KvEvent::AllBlocksCleared { kvd_incarnation: None, kvd_digest: None }],
        Content::Nothing => {}
        Content::Recovered(tier, rows) => {
            for row in rows {
                let place = Place { tier, key: row.key, local: row.local };
                events.stored(layouts, place, row.parent, row.position, Vec::new());
            }
        }
        Content::Edges(facts) => {
            for EdgeFact { edge, tokens, slot, .. } in facts {
                match edge {
                    ResidencyEdge::Stored { key, tier, parent, local, position } => {
                        let tokens = tokens.or_else(|| slot.and_then(|slot| tokens_of(&arena.read_header(slot), key))).unwrap_or_default();
                        events.stored(layouts, Place { tier, key, local }, parent, position, tokens);
                    }
                    ResidencyEdge::Removed { key, tier } => events.removed(layouts, key, tier),
                }
            }
        }
    }
    events.finish()
}

/// The events of a message of this life of the daemon, the last one stamped.
pub fn message(message: Numbered, incarnation: u64, layouts: &Layouts, arena: &Arena) -> Vec<KvEvent> {
    let mut events = events(message.content, layouts, arena);
    events.last_mut().into_iter().for_each(|last| last.stamp(incarnation, message.digest));
    events
}

/// The tokens of `page` if it is a sound header of `key`: the slot may hold another block by now.
fn tokens_of(page: &HeaderPage, key: BlockKey) -> Option<Vec<u32>> {
    image::verify_page(page).ok()?;
    if image::sequence_hash(page) != key.hash {
        return None;
    }
    BlockHeader::decode(page).ok().map(|header| header.tokens)
}

#[derive(Debug, Clone, Copy)]
struct Place {
    tier: TierKind,
    key: BlockKey,
    local: LocalHash,
}

#[derive(Debug, Default)]
struct Merged {
    done: Vec<KvEvent>,
    /// The layout and tier of the last event, to which a next block may be added.
    last: Option<(LayoutHandle, TierKind)>,
}

impl Merged {
    fn stored(&mut self, layouts: &Layouts, place: Place, parent: SequenceHash, position: u32, tokens: Vec<u32>) {
        let here = Some((place.key.layout, place.tier));
        if let (true, Some(KvEvent::BlockStored(run))) = (self.last == here, self.done.last_mut()) {
            let follows = run.block_hashes.last() == Some(&parent) && run.token_ids.is_empty() == tokens.is_empty();
            if follows {
                run.block_hashes.push(place.key.hash);
                run.token_ids.extend(tokens);
                run.kvd_local.push(place.local.0);
                return;
            }
        }
        let Some(layout) = layouts.get(place.key.layout) else { return };
        self.last = here;
        self.done.push(KvEvent::BlockStored(BlockStored {
            block_hashes: vec![place.key.hash],
            parent_block_hash: (!parent.is_root()).then(|| ByteBuf::from(parent.0)),
            token_ids: tokens,
            block_size: layout.spec.block_tokens,
            lora_id: None,
            lora_name: None,
            medium: place.tier.medium().into(),
            group_idx: layout.spec.group,
            kvd_layout: layout.id.to_string(),
            kvd_local: vec![place.local.0],
            kvd_position: position,
            kvd_incarnation: None,
            kvd_digest: None,
        }));
    }

    fn removed(&mut self, layouts: &Layouts, key: BlockKey, tier: TierKind) {
        let here = Some((key.layout, tier));
        if let (true, Some(KvEvent::BlockRemoved(run))) = (self.last == here, self.done.last_mut()) {
            run.block_hashes.push(key.hash);
            return;
        }
        let Some(layout) = layouts.get(key.layout) else { return };
        self.last = here;
        self.done.push(KvEvent::BlockRemoved(BlockRemoved {
            block_hashes: vec![key.hash],
            medium: tier.medium().into(),
            group_idx: layout.spec.group,
            kvd_layout: layout.id.to_string(),
            kvd_incarnation: None,
            kvd_digest: None,
        }));
    }

    fn finish(mut self) -> Vec<KvEvent> {
        if self.done.is_empty() {
            self.done.push(KvEvent::nothing());
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::LayoutSpec;
    use kvd_block::digest::Digest;
    use kvd_shm::HugePages;

    fn layouts() -> Layouts {
        let layouts = Layouts::default();
        let spec = LayoutSpec {
            model: "m".into(),
            weights: "w".into(),
            kv_dtype: "bfloat16".into(),
            block_tokens: 2,
            group: 3,
            attention: "full_attention".into(),
            geometry: "g".into(),
            ranks: 1,
            stripe_bytes: 64,
        };
        layouts.insert(LayoutHandle(0), spec);
        layouts
    }

    fn stored(layout: u16, hash: u8, parent: u8, tier: TierKind) -> EdgeFact {
        let key = BlockKey { layout: LayoutHandle(layout), hash: SequenceHash([hash; 16]) };
        let edge = ResidencyEdge::Stored {
            key,
            tier,
            parent: SequenceHash([parent; 16]),
            local: LocalHash(hash.into()),
            position: u32::from(hash) - 1,
        };
        EdgeFact { edge, term: 0, tokens: Some(vec![hash.into(), 0]), slot: None }
    }

    fn merged(facts: Vec<EdgeFact>) -> Vec<KvEvent> {
        events(Content::Edges(facts), &layouts(), &Arena::create(4096, HugePages::Never).unwrap())
    }

    #[test]
    fn a_run_of_blocks_is_one_event() {
        let events = merged(vec![stored(0, 1, 0, TierKind::Cpu), stored(0, 2, 1, TierKind::Cpu)]);
        let [KvEvent::BlockStored(run)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(run.block_hashes, [SequenceHash([1; 16]), SequenceHash([2; 16])]);
        assert_eq!((run.token_ids.as_slice(), run.parent_block_hash.as_ref()), (&[1, 0, 2, 0][..], None));
        assert_eq!((run.group_idx, run.block_size, run.kvd_position), (3, 2, 0));
    }

    #[test]
    fn blocks_that_do_not_follow_are_not_joined() {
        assert_eq!(merged(vec![stored(0, 1, 0, TierKind::Cpu), stored(0, 3, 2, TierKind::Cpu)]).len(), 2);
        assert_eq!(merged(vec![stored(0, 1, 0, TierKind::Cpu), stored(0, 2, 1, TierKind::Nvme)]).len(), 2);
    }

    #[test]
    fn the_last_event_says_what_is_resident() {
        let facts = vec![stored(0, 1, 0, TierKind::Cpu), stored(0, 3, 2, TierKind::Cpu)];
        let digest = Digest { sum: 5, count: 2 };
        let arena = Arena::create(4096, HugePages::Never).unwrap();
        let events = message(Numbered { number: 1, content: Content::Edges(facts), digest }, 7, &layouts(), &arena);
        assert_eq!(events.iter().map(KvEvent::stamped).collect::<Vec<_>>(), [None, Some((7, digest))]);
    }

    #[test]
    fn a_message_without_edges_has_an_event_all_the_same() {
        let arena = Arena::create(4096, HugePages::Never).unwrap();
        assert_eq!(events(Content::Nothing, &layouts(), &arena), [KvEvent::nothing()]);
    }
}
