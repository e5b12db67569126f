//! Whose edges a message has: the holders of its events, found or added before the index is locked.

use super::{Applier, LayoutFacts, Publisher, Refusal};
use crate::ingest::holders::HolderKey;
use crate::ingest::namespaces::NamespaceKey;
use crate::ingest::wire::{Attention, Event};
use kvd_block::LayoutId;
use kvd_proto::admin::Layout;

/// Why a message cannot be applied as it is.
pub(super) enum Obstacle {
    /// It tells of a layout that was not learned yet.
    UnknownLayout,
    /// Its publisher cannot be followed.
    Refused(Refusal),
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Obstacle {
        Obstacle::Refused(refusal)
    }
}

/// What an event says about its holder.
struct Facts {
    group: u16,
    layout: Option<LayoutId>,
    /// It tells of blocks, or of what its group attends to.
    substantial: bool,
    block_tokens: Option<u32>,
    attention: Option<Attention>,
}

impl Facts {
    /// `None` for an event that concerns all holders.
    fn of(event: &Event<'_>) -> Option<Facts> {
        match event {
            Event::Cleared => None,
            Event::Removed { group, layout, names, .. } => {
                Some(Facts { group: *group, layout: *layout, substantial: !names.is_empty(), block_tokens: None, attention: None })
            }
            Event::Stored(stored) => Some(Facts {
                group: stored.group,
                layout: stored.layout,
                substantial: !stored.names.is_empty() || stored.attention.is_some(),
                block_tokens: Some(stored.block_tokens).filter(|tokens| *tokens > 0),
                attention: stored.attention,
            }),
        }
    }
}

impl Applier {
    /// Finds, or adds, the holder of each event of the decoded message.
    pub(super) fn seat(&mut self) -> Result<(), Obstacle> {
        self.seats.clear();
        let rank = self.decoder.batch().rank;
        for at in 0.. {
            let Some(event) = self.decoder.batch().event_at(at) else { break };
            let seat = match (Facts::of(&event), &self.publisher) {
                (Some(Facts { layout: Some(layout), substantial, .. }), Publisher::Kvd) => self.layout_seat(layout, substantial)?,
                (Some(facts), Publisher::Engine { rank: declared, .. }) => self.group_seat(rank.unwrap_or(*declared), &facts)?,
                _ => None,
            };
            self.seats.push(seat);
        }
        Ok(())
    }

    fn layout_seat(&mut self, layout: LayoutId, substantial: bool) -> Result<Option<usize>, Obstacle> {
        let known = self.holders.find(HolderKey::Layout(layout));
        if known.is_some() || !substantial {
            return Ok(known);
        }
        if !self.layouts.contains_key(&layout) {
            return Err(Obstacle::UnknownLayout);
        }
        Ok(Some(self.add_layout(layout)?))
    }

    /// The holder of a layout, which is added if there is none.
    pub(super) fn add_layout(&mut self, layout: LayoutId) -> Result<usize, Refusal> {
        let key = HolderKey::Layout(layout);
        if let Some(seat) = self.holders.find(key) {
            return Ok(seat);
        }
        let facts = self.layouts.get(&layout).ok_or(Refusal::UnknownLayout(layout))?;
        self.version += 1;
        Ok(self.holders.add(key, &facts.namespace, facts.group, layout.salt(), facts.attention)?)
    }

    fn group_seat(&mut self, rank: u32, facts: &Facts) -> Result<Option<usize>, Refusal> {
        if let Some(told) = facts.block_tokens {
            let declared = *self.block_tokens.get_or_insert(told);
            if declared != told {
                return Err(Refusal::BlockTokens { declared, told });
            }
        }
        let key = HolderKey::Group { rank, group: facts.group };
        if let Some(seat) = self.holders.find(key) {
            if let Some(attention) = facts.attention.filter(|attention| self.holders.seats[seat].attention != *attention) {
                self.holders.seats[seat].attention = attention;
                self.version += 1;
            }
            return Ok(Some(seat));
        }
        // Without a block size nothing was ever placed, so there is nothing that this event could change.
        let (true, Some(block_tokens), Publisher::Engine { model, .. }) = (facts.substantial, self.block_tokens, &self.publisher) else {
            return Ok(None);
        };
        let namespace = NamespaceKey { model: model.clone(), block_tokens };
        self.version += 1;
        Ok(Some(self.holders.add(key, &namespace, facts.group, 0, facts.attention.unwrap_or(Attention::Full))?))
    }

    /// Learns kvd's layouts. After that an event of an unknown one is refused ([`Refusal::UnknownLayout`]).
    pub fn learn(&mut self, layouts: &[Layout]) -> Result<(), Refusal> {
        for layout in layouts {
            self.learn_one(&layout.id, &layout.model, layout.block_tokens, layout.group, &layout.attention)?;
        }
        Ok(())
    }

    pub(super) fn learn_one(
        &mut self,
        id: &[u8],
        model: &str,
        block_tokens: u32,
        group: u32,
        attention: &str,
    ) -> Result<LayoutId, Refusal> {
        let id = LayoutId(id.try_into().unwrap_or_default());
        if block_tokens == 0 {
            return Err(Refusal::EmptyLayout(id));
        }
        let namespace = NamespaceKey { model: model.to_owned(), block_tokens };
        if attention.is_empty() && self.layouts.contains_key(&id) {
            return Ok(id);
        }
        let attention = Attention::named(attention, None);
        self.layouts.insert(id, LayoutFacts { namespace, group: group as u16, attention });
        if let Some(seat) = self.holders.find(HolderKey::Layout(id)).filter(|seat| self.holders.seats[*seat].attention != attention) {
            self.holders.seats[seat].attention = attention;
            self.version += 1;
        }
        Ok(id)
    }
}
