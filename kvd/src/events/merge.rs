//! Joins edges that follow one another into the events engines publish: one per run of blocks.

use super::feed::{Content, EdgeFact};
use crate::layouts::Layouts;
use kvd_block::image::{self, HeaderPage};
use kvd_block::{BlockHeader, BlockKey, LayoutHandle, ResidencyEdge, RouteHash, SequenceHash, TierKind};
use kvd_proto::wire::kv_event::{BlockRemoved, BlockStored, KvEvent};
use kvd_shm::Arena;
use serde_bytes::ByteBuf;

/// The events of `content`. Blocks of layouts nobody defined are left out.
pub fn events(content: Content, incarnation: u64, layouts: &Layouts, arena: &Arena) -> Vec<KvEvent> {
    let mut events = Merged::default();
    match content {
        Content::Cleared => return vec![KvEvent::AllBlocksCleared { kvd_incarnation: incarnation }],
        Content::Recovered(tier, rows) => {
            for row in rows {
                let place = Place { tier, key: row.key, route: row.route };
                events.stored(layouts, place, row.parent, row.position, Vec::new());
            }
        }
        Content::Edges(facts) => {
            for EdgeFact { edge, tokens, slot } in facts {
                match edge {
                    ResidencyEdge::Stored { key, tier, parent, route, position } => {
                        let tokens = tokens.or_else(|| slot.and_then(|slot| tokens_of(&arena.read_header(slot), key))).unwrap_or_default();
                        events.stored(layouts, Place { tier, key, route }, parent, position, tokens);
                    }
                    ResidencyEdge::Removed { key, tier, route } => events.removed(layouts, Place { tier, key, route }),
                }
            }
        }
    }
    events.finish()
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
    route: RouteHash,
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
                run.kvd_route.push(place.route.0);
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
            medium: place.tier.medium().into(),
            group_idx: layout.spec.group,
            kvd_layout: layout.id.to_string(),
            kvd_route: vec![place.route.0],
            kvd_position: position,
        }));
    }

    fn removed(&mut self, layouts: &Layouts, place: Place) {
        let here = Some((place.key.layout, place.tier));
        if let (true, Some(KvEvent::BlockRemoved(run))) = (self.last == here, self.done.last_mut()) {
            run.block_hashes.push(place.key.hash);
            run.kvd_route.push(place.route.0);
            return;
        }
        let Some(layout) = layouts.get(place.key.layout) else { return };
        self.last = here;
        self.done.push(KvEvent::BlockRemoved(BlockRemoved {
            block_hashes: vec![place.key.hash],
            medium: place.tier.medium().into(),
            group_idx: layout.spec.group,
            kvd_layout: layout.id.to_string(),
            kvd_route: vec![place.route.0],
        }));
    }

    fn finish(self) -> Vec<KvEvent> {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::LayoutSpec;
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
            route: RouteHash(hash.into()),
            position: u32::from(hash) - 1,
        };
        EdgeFact { edge, tokens: Some(vec![hash.into(), 0]), slot: None }
    }

    fn merged(facts: Vec<EdgeFact>) -> Vec<KvEvent> {
        events(Content::Edges(facts), 7, &layouts(), &Arena::create(4096, HugePages::Never).unwrap())
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
    fn a_layout_nobody_defined_is_left_out() {
        assert_eq!(merged(vec![stored(9, 1, 0, TierKind::Cpu)]), []);
    }
}
