//! The holders of one stream: who they are, and in which index.

use super::namespaces::{Full, Namespace, NamespaceKey, Namespaces};
use super::saved::SavedSeat;
use super::wire::Attention;
use crate::index::{HolderId, Index, NameDomain};
use kvd_block::LayoutId;
use kvd_block::digest::Digest;
use std::sync::{Arc, RwLockWriteGuard};

/// Most holders of one stream: ranks times groups, or layouts.
const MOST_HOLDERS: usize = 1024;

/// Whose edges they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HolderKey {
    /// One KV group of one rank of an engine.
    Group {
        /// Data-parallel rank.
        rank: u32,
        /// KV group.
        group: u16,
    },
    /// One layout of a kvd.
    Layout(LayoutId),
}

/// One holder, for those who build workers of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// In the index of `namespace`.
    pub holder: HolderId,
    /// Which index.
    pub namespace: NamespaceKey,
    /// Data-parallel rank of an engine; 0 for a kvd.
    pub rank: u32,
    /// KV group.
    pub group: u16,
    /// Layout of a kvd.
    pub layout: Option<LayoutId>,
    /// Blocks before the end of a prefix that its layers need; `None` for all.
    pub window_blocks: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Seat {
    pub key: HolderKey,
    pub group: u16,
    pub holder: HolderId,
    /// Index into the guards of [`Holders::lock`].
    pub space: usize,
    pub attention: Attention,
    /// By medium.
    pub blocks: [u64; 4],
}

#[derive(Debug)]
struct Space {
    namespace: Arc<Namespace>,
    domain: NameDomain,
    /// The domain is this stream's alone.
    own: bool,
}

/// See the module. Dropping it forgets all blocks of its holders.
#[derive(Debug)]
pub(super) struct Holders {
    namespaces: Arc<Namespaces>,
    /// Names are shared with all kvd daemons.
    shared_names: bool,
    spaces: Vec<Space>,
    pub seats: Vec<Seat>,
}

impl Holders {
    pub(super) fn new(namespaces: Arc<Namespaces>, shared_names: bool) -> Holders {
        Holders { namespaces, shared_names, spaces: Vec::new(), seats: Vec::new() }
    }

    /// The holders of a former life, whose blocks the indexes still have.
    pub(super) fn resume(namespaces: Arc<Namespaces>, shared_names: bool, saved: &[SavedSeat]) -> Option<Holders> {
        let mut holders = Holders::new(namespaces, shared_names);
        for seat in saved {
            let namespace = holders.namespaces.get(&seat.namespace)?;
            let known = holders.spaces.iter().position(|space| space.namespace.key == seat.namespace);
            let space = known.unwrap_or_else(|| holders.insert(namespace, NameDomain(seat.domain)));
            let SavedSeat { group, attention, blocks, .. } = *seat;
            holders.seats.push(Seat { key: seat.key.into(), group, holder: HolderId(seat.holder), space, attention, blocks });
        }
        Some(holders)
    }

    /// What the next life needs to know of them.
    pub(super) fn saved(&self) -> Vec<SavedSeat> {
        let one = |seat: &Seat| {
            let Seat { group, attention, blocks, .. } = *seat;
            let Space { namespace, domain, .. } = &self.spaces[seat.space];
            SavedSeat {
                key: seat.key.into(),
                namespace: namespace.key.clone(),
                domain: domain.0,
                holder: seat.holder.0,
                group,
                attention,
                blocks,
            }
        };
        self.seats.iter().map(one).collect()
    }

    pub(super) fn find(&self, key: HolderKey) -> Option<usize> {
        self.seats.iter().position(|seat| seat.key == key)
    }

    /// Adds a holder and says where among the seats it is.
    pub(super) fn add(
        &mut self,
        key: HolderKey,
        namespace: &NamespaceKey,
        group: u16,
        salt: u64,
        attention: Attention,
    ) -> Result<usize, Full> {
        if self.seats.len() >= MOST_HOLDERS {
            return Err(crate::index::TooManyHolders.into());
        }
        let space = self.space(namespace)?;
        let holder = self.spaces[space].namespace.add_holder(self.spaces[space].domain, salt)?;
        self.seats.push(Seat { key, group, holder, space, attention, blocks: [0; 4] });
        Ok(self.seats.len() - 1)
    }

    /// The place of a namespace in the order of locks.
    fn space(&mut self, key: &NamespaceKey) -> Result<usize, Full> {
        if let Some(at) = self.spaces.iter().position(|space| space.namespace.key == *key) {
            return Ok(at);
        }
        let namespace = self.namespaces.get_or_make(key)?;
        let domain = if self.shared_names { NameDomain(0) } else { namespace.own_domain()? };
        Ok(self.insert(namespace, domain))
    }

    fn insert(&mut self, namespace: Arc<Namespace>, domain: NameDomain) -> usize {
        let own = !self.shared_names;
        let at = self.spaces.partition_point(|space| space.namespace.number() < namespace.number());
        self.spaces.insert(at, Space { namespace, domain, own });
        self.seats.iter_mut().filter(|seat| seat.space >= at).for_each(|seat| seat.space += 1);
        at
    }

    /// Locks all indexes, always in the same order, so that a message is applied at once.
    pub(super) fn lock(&mut self) -> (Vec<RwLockWriteGuard<'_, Index>>, &mut [Seat]) {
        (self.spaces.iter().map(|space| space.namespace.write()).collect(), &mut self.seats)
    }

    /// Forgets all blocks.
    pub(super) fn clear(&mut self) {
        let (mut indexes, seats) = self.lock();
        clear(&mut indexes, seats);
    }

    pub(super) fn views(&self) -> Vec<HolderView> {
        let view = |seat: &Seat| {
            let namespace = self.spaces[seat.space].namespace.key.clone();
            let (rank, layout) = match seat.key {
                HolderKey::Group { rank, .. } => (rank, None),
                HolderKey::Layout(layout) => (0, Some(layout)),
            };
            let window_blocks = seat.attention.window_blocks(namespace.block_tokens);
            HolderView { holder: seat.holder, namespace, rank, group: seat.group, layout, window_blocks }
        };
        self.seats.iter().map(view).collect()
    }
}

/// Forgets all blocks of `seats`.
pub(super) fn clear(indexes: &mut [RwLockWriteGuard<'_, Index>], seats: &mut [Seat]) {
    for seat in seats {
        indexes[seat.space].clear(seat.holder);
        seat.blocks = [0; 4];
    }
}

/// Over all that `seats` hold.
pub(super) fn digest(indexes: &[RwLockWriteGuard<'_, Index>], seats: &[Seat]) -> Digest {
    seats.iter().fold(Digest::default(), |all, seat| all.and(indexes[seat.space].digest(seat.holder)))
}

impl Drop for Holders {
    fn drop(&mut self) {
        // Whatever broke may break again: the holders stay, unused, and are not given to anybody else.
        if std::thread::panicking() {
            return;
        }
        for seat in &self.seats {
            self.spaces[seat.space].namespace.write().remove_holder(seat.holder);
        }
        for space in self.spaces.iter().filter(|space| space.own) {
            space.namespace.give_back(space.domain);
        }
    }
}
