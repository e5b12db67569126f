//! What a run met. A simulation in which something never happens finds nothing there, so the situations are counted, and a test
//! requires each of them.

use std::ops::AddAssign;

macro_rules! situations {
    ($( $name:ident $what:literal )*) => {
        /// Something that a run may meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Situation {
            $( #[doc = $what] $name, )*
        }

        impl Situation {
            /// Every situation.
            pub const ALL: &[Situation] = &[$( Situation::$name, )*];

            /// What happened, for people.
            pub fn what(self) -> &'static str {
                match self { $( Situation::$name => $what, )* }
            }
        }
    };
}

situations! {
    EvictedWhileAnotherLoads "a block was evicted while an engine was loading another"
    TwoEnginesFillOneBlock "an engine asked to store what another was storing"
    TwoRanksStoreOneBlock "two ranks of one engine asked to store the same block"
    RanksFillOneSlotTogether "two ranks wrote their stripes into one slot at the same time"
    StoreFoundNoRoom "a store got no slot: everything was in use"
    SharedPrefix "an engine accepted a block that another had stored"
    TwoLoadsOfOneBlock "two engines read one slot at the same time"
    OneReadForTwoLoads "two loads waited for the same block to be read"
    EngineDiedStoring "an engine died while it filled slots"
    EngineDiedLoading "an engine died while it copied out of slots"
    EngineDiedWaiting "an engine died while it waited for a block to be read"
    GaveUpWaiting "an engine ended a load before everything was read"
    LeaseExpired "a lease ended by itself"
    StoreCompletedLate "an engine completed a store after its lease had expired"
    StaleReaderRefused "a reader whose lease was over refused a slot that had changed"
    RequestTwice "an engine completed a lease twice"
    RequestNonsense "an engine named a lease that is not its own"
    RequestInvalid "a request was refused as invalid"
    RequestBusy "a request was answered Busy"
    RequestLate "a message took very long"
    ParentsInACircle "an engine claimed parents that form a circle"
    LateCompletion "the end of a transfer was told late"
    DuplicateCompletion "the end of a transfer was told twice"
    CompletionAfterDeath "a transfer ended after its daemon had died"
    ShortRead "a read brought less than a whole image"
    FailedRead "a read failed"
    CorruptRead "a read brought an image that did not match"
    FailedWrite "a write failed"
    DiskFull "a write failed because the disk was full"
    TierBusy "the tier was too busy to take a transfer"
    Stall "a load gave up on a block that a stalled tier was reading"
    WriteDuringErase "an image was to be written while another was being erased"
    FailedErase "an erase failed"
    EraseLostInCrash "a crash lost an erase"
    CrashBetweenActions "the daemon died between two actions of one step"
    CrashWhileStoring "the daemon died while an engine filled slots"
    CrashWhileLoading "the daemon died while an engine copied out of slots"
    CrashWhileWriting "the daemon died while an image was being written"
    CrashWhileReading "the daemon died while an image was being read"
    PowerCut "the whole machine died"
    RestartWithLostRows "a restart found a catalog whose last changes were lost"
    RestartByScan "a restart found no catalog and scanned the disk"
    WriteOutlivedDaemon "a write landed after its daemon had died"
    HandOver "the arena was handed to a new daemon"
    HandOverUnderTransfers "the arena was handed over while transfers were under way"
    HandOverRefused "a hand-over was given up because an engine was storing"
    Purge "blocks were purged"
    PurgeWhileStoring "blocks were purged while being stored"
    PurgeWhileLoading "blocks were purged while being loaded"
    PurgeWhileWriting "blocks were purged while being written"
    PurgedImageScanned "a scan found an image that had been purged"
    PurgedRowRecovered "a restart found rows of blocks that had been purged"
    ScrubFoundRot "the scrubber found rot before a reader did"
    ReaderFoundRot "an engine found rot"
    RotUnderOtherReaders "an engine reported rot in a slot that others were reading"
    Pinned "blocks were pinned"
    SnapshotOverSteps "a snapshot was collected while residency changed"
    SubscriberLostEvents "a subscriber lost events and took a snapshot"
}

/// How often each situation was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage([u64; Situation::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Coverage([0; Situation::ALL.len()])
    }
}

impl Coverage {
    /// Counts one.
    pub fn met(&mut self, situation: Situation) {
        self.0[situation as usize] += 1;
    }

    /// How often.
    pub fn count(&self, situation: Situation) -> u64 {
        self.0[situation as usize]
    }
}

impl AddAssign for Coverage {
    fn add_assign(&mut self, other: Coverage) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}
