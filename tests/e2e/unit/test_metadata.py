from kvd_connectors.vllm.metadata import KvdWorkerMetadata, LoadReport, StoreReport
from kvd_connectors.vllm.stats import KvdStats


def test_reports_of_ranks_add_up():
    one = KvdWorkerMetadata({1: LoadReport(1, {3}, {3})}, {7: StoreReport({0: [10]})}, {0: 1})
    two = KvdWorkerMetadata({1: LoadReport(1, {4}, set())}, {7: StoreReport({1: None}, True)}, {1: 0})
    both = one.aggregate(two)
    assert both.loads[1] == LoadReport(2, {3, 4}, {3})
    assert both.stores[7] == StoreReport({0: [10], 1: None}, True)
    assert both.failures == {0: 1, 1: 0}


def test_counters_of_ranks_add_up():
    one, two = KvdStats(), KvdStats()
    one.count(stored_blocks=2, store_seconds=0.5)
    two.count(stored_blocks=3)
    assert one.aggregate(two).reduce() == {"stored_blocks": 5, "store_seconds": 0.5}
    assert one.take() is not None and one.take() is None
