//! Which layouts exist, and the handles that stand for them inside this daemon.
//!
//! With storage, handles are kept in the catalog, so a block found after a restart still has its meaning.

use kvd_block::{LayoutHandle, LayoutId, LayoutSpec};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// Most layouts of one daemon. Each is a model in one configuration; a node sees a handful.
pub const MAX_LAYOUTS: usize = 4096;

/// A layout with its names.
#[derive(Debug)]
pub struct Layout {
    /// Inside this daemon.
    pub handle: LayoutHandle,
    /// Everywhere.
    pub id: LayoutId,
    /// What it is.
    pub spec: LayoutSpec,
}

/// Every layout known.
#[derive(Debug, Default)]
pub struct Layouts(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    by_handle: HashMap<LayoutHandle, Arc<Layout>>,
    by_id: HashMap<LayoutId, LayoutHandle>,
}

impl Layouts {
    /// The layout of `handle`.
    pub fn get(&self, handle: LayoutHandle) -> Option<Arc<Layout>> {
        self.0.read().expect("no panic while held").by_handle.get(&handle).cloned()
    }

    /// The layout named `id`.
    pub fn find(&self, id: LayoutId) -> Option<Arc<Layout>> {
        let table = self.0.read().expect("no panic while held");
        table.by_handle.get(table.by_id.get(&id)?).cloned()
    }

    /// All, by handle.
    pub fn all(&self) -> Vec<Arc<Layout>> {
        let mut all: Vec<_> = self.0.read().expect("no panic while held").by_handle.values().cloned().collect();
        all.sort_by_key(|layout| layout.handle);
        all
    }

    /// Adds a layout whose handle is known.
    pub fn insert(&self, handle: LayoutHandle, spec: LayoutSpec) -> Arc<Layout> {
        let layout = Arc::new(Layout { handle, id: spec.id(), spec });
        let mut table = self.0.write().expect("no panic while held");
        table.by_id.insert(layout.id, handle);
        table.by_handle.insert(handle, layout.clone());
        layout
    }

    /// The handle for a layout that has none yet; `None` when there are too many.
    pub fn free_handle(&self) -> Option<LayoutHandle> {
        let table = self.0.read().expect("no panic while held");
        (0..MAX_LAYOUTS as u16).map(LayoutHandle).find(|handle| !table.by_handle.contains_key(handle))
    }

    /// For the journal: how `spec` differs from a layout of the same model and group, if there is one.
    pub fn difference(&self, spec: &LayoutSpec) -> Option<String> {
        let all = self.all();
        let similar = all.iter().rev().find(|other| other.spec.model == spec.model && other.spec.group == spec.group)?;
        Some(differing_fields(&similar.spec, spec))
    }
}

fn differing_fields(old: &LayoutSpec, new: &LayoutSpec) -> String {
    let fields = [
        ("weights", old.weights.clone(), new.weights.clone()),
        ("kv_dtype", old.kv_dtype.clone(), new.kv_dtype.clone()),
        ("block_tokens", old.block_tokens.to_string(), new.block_tokens.to_string()),
        ("attention", old.attention.clone(), new.attention.clone()),
        ("geometry", old.geometry.clone(), new.geometry.clone()),
        ("ranks", old.ranks.to_string(), new.ranks.to_string()),
        ("stripe_bytes", old.stripe_bytes.to_string(), new.stripe_bytes.to_string()),
    ];
    let named = fields.into_iter().filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name} was {a}, is {b}"));
    named.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(stripe_bytes: u64) -> LayoutSpec {
        LayoutSpec {
            model: "m".into(),
            weights: "w".into(),
            kv_dtype: "bfloat16".into(),
            block_tokens: 16,
            group: 0,
            attention: "full_attention".into(),
            geometry: "g".into(),
            ranks: 1,
            stripe_bytes,
        }
    }

    #[test]
    fn handles_are_found_by_id() {
        let layouts = Layouts::default();
        layouts.insert(LayoutHandle(0), spec(1));
        assert_eq!(layouts.free_handle(), Some(LayoutHandle(1)));
        assert_eq!(layouts.find(spec(1).id()).unwrap().handle, LayoutHandle(0));
        assert!(layouts.find(spec(2).id()).is_none());
    }

    #[test]
    fn a_surprising_layout_names_what_differs() {
        let layouts = Layouts::default();
        layouts.insert(LayoutHandle(0), spec(1));
        assert_eq!(layouts.difference(&spec(2)).unwrap(), "stripe_bytes was 1, is 2");
    }
}
