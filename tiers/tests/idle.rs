//! An idle tier costs nothing. Alone in its binary, because it measures the whole process.

mod made;

use kvd_tiers::conformance::sample_layout;
use kvd_tiers::{IoEngine, NvmeTier};
use made::{arena, config, folder, write};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

#[test]
fn an_idle_tier_uses_no_cpu() {
    for engine in [IoEngine::Uring, IoEngine::Posix] {
        let (folder, arena) = (folder(), arena());
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        write(&tier, &arena, &sample_layout(), 0, 1);
        let spent = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
        let before = spent();
        std::thread::sleep(Duration::from_millis(300));
        let used = spent() - before;
        assert!(used < Duration::from_millis(5), "{engine:?} used {used:?} of CPU in 300 ms of idling");
    }
}
