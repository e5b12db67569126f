//! One index for each model and block size: blocks of different sizes, or of different models, have nothing to do with each other.

use crate::index::{HolderId, Index, IndexLimits, NameDomain, TooManyHolders};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Most indexes: publishers may make up models, but not without end.
const MOST_NAMESPACES: usize = 1024;

/// What blocks must share to be comparable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespaceKey {
    /// Model, as requests name it.
    pub model: String,
    /// Tokens in each block.
    pub block_tokens: u32,
}

impl fmt::Display for NamespaceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in blocks of {} tokens", self.model, self.block_tokens)
    }
}

/// An index and who writes to it.
#[derive(Debug)]
pub struct Namespace {
    /// What it is of.
    pub key: NamespaceKey,
    /// Locks are taken in the order of these.
    number: usize,
    index: RwLock<Index>,
    domains: Mutex<BTreeSet<u16>>,
}

/// There are too many namespaces, holders or name domains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Of models and block sizes.
    #[error("{0} would be one model and block size too many: at most {MOST_NAMESPACES} are followed")]
    Namespaces(NamespaceKey),
    /// Of publishers' streams, or of ways to name blocks.
    #[error(transparent)]
    Holders(#[from] TooManyHolders),
}

impl Namespace {
    /// For look-ups.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(|broken| broken.into_inner())
    }

    /// For edges; held for one message at a time.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Position in the order in which locks are taken.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// A name domain of one's own. The first is kvd's, whose daemons all give equal blocks equal names.
    pub(super) fn own_domain(&self) -> Result<NameDomain, TooManyHolders> {
        let mut taken = self.domains.lock().unwrap_or_else(|broken| broken.into_inner());
        let free = (1..u16::MAX).find(|domain| !taken.contains(domain)).ok_or(TooManyHolders)?;
        taken.insert(free);
        Ok(NameDomain(free))
    }

    pub(super) fn give_back(&self, domain: NameDomain) {
        self.domains.lock().unwrap_or_else(|broken| broken.into_inner()).remove(&domain.0);
    }

    pub(super) fn add_holder(&self, domain: NameDomain, salt: u64) -> Result<HolderId, TooManyHolders> {
        self.write().add_holder(domain, salt)
    }
}

/// All indexes.
#[derive(Debug, Default)]
pub struct Namespaces {
    limits: IndexLimits,
    by_key: RwLock<BTreeMap<NamespaceKey, Arc<Namespace>>>,
}

impl Namespaces {
    /// None yet; each will have `limits` of its own.
    pub fn new(limits: IndexLimits) -> Namespaces {
        Namespaces { limits, by_key: RwLock::default() }
    }

    /// The index of `key`, if anybody ever published for it.
    pub fn get(&self, key: &NamespaceKey) -> Option<Arc<Namespace>> {
        self.by_key.read().unwrap_or_else(|broken| broken.into_inner()).get(key).cloned()
    }

    /// All of them, by key.
    pub fn all(&self) -> Vec<Arc<Namespace>> {
        self.by_key.read().unwrap_or_else(|broken| broken.into_inner()).values().cloned().collect()
    }

    /// What each index may use.
    pub(super) fn limits(&self) -> IndexLimits {
        self.limits
    }

    /// Puts an index from a former life in the place of `key`, if nothing is there yet.
    pub(super) fn restore(&self, key: NamespaceKey, index: Index, domains: BTreeSet<u16>) {
        let mut by_key = self.by_key.write().unwrap_or_else(|broken| broken.into_inner());
        let number = by_key.len();
        if number < MOST_NAMESPACES {
            let make = || Arc::new(Namespace { key: key.clone(), number, index: RwLock::new(index), domains: Mutex::new(domains) });
            by_key.entry(key.clone()).or_insert_with(make);
        }
    }

    /// The index of `key`, which is made if there is none.
    pub fn get_or_make(&self, key: &NamespaceKey) -> Result<Arc<Namespace>, Full> {
        if let Some(namespace) = self.get(key) {
            return Ok(namespace);
        }
        let mut by_key = self.by_key.write().unwrap_or_else(|broken| broken.into_inner());
        let number = by_key.len();
        if number >= MOST_NAMESPACES {
            return Err(Full::Namespaces(key.clone()));
        }
        let make = || {
            let index = RwLock::new(Index::new(self.limits));
            Arc::new(Namespace { key: key.clone(), number, index, domains: Mutex::default() })
        };
        Ok(by_key.entry(key.clone()).or_insert_with(make).clone())
    }
}
