import pytest
from driver import BLOCK, Driver, group
from fake_native import KVD

TOKENS = list(range(10 * BLOCK + 3))


@pytest.fixture(autouse=True)
def fresh(kvd):
    yield
    assert not KVD.leases


def empty(driver):
    return set(driver.half.sizes().values()) == {0}


def test_what_one_request_stored_the_next_one_finds():
    driver = Driver()
    assert driver.serve(driver.request(TOKENS))[0] == 0
    found, meta, _ = driver.serve(driver.request(TOKENS))
    assert found == 10 * BLOCK
    assert [len(op.slots) for op in meta.loads] == [10]
    assert not meta.stores
    assert empty(driver)


def test_a_hit_leaves_a_token_to_compute():
    driver = Driver()
    driver.serve(driver.request(TOKENS[: 4 * BLOCK]))
    assert driver.serve(driver.request(TOKENS[: 4 * BLOCK]))[0] == 3 * BLOCK


def test_only_what_the_engine_lacks_is_asked_for():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    found, meta, _ = driver.serve(driver.request(TOKENS), local=6 * BLOCK)
    assert found == 4 * BLOCK
    assert len(meta.loads[0].slots) == 4


def test_salts_do_not_share():
    driver = Driver()
    driver.serve(driver.request(TOKENS, salt="a"))
    assert driver.serve(driver.request(TOKENS, salt="b"))[0] == 0


def test_chunked_prefill_stores_each_block_once_when_it_is_full():
    driver = Driver()
    request = driver.request(TOKENS)
    driver.admit(request)
    stored = [sum(len(op.slots) for op in driver.step({request: n}).stores) for n in (20, 20, 8, 60, 55)]
    assert stored == [1, 1, 1, 3, 4]


def test_generated_blocks_are_stored_when_full():
    driver = Driver()
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.step({request: len(TOKENS)})
    stored = []
    for token in range(BLOCK):
        request.append_output_token_ids(token)
        stored.append(len(driver.step({request: 1}).stores))
    assert stored == [0] * 12 + [1] + [0] * 3


def test_prompt_only_storing_can_be_chosen():
    driver = Driver(store_decode=False)
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.step({request: len(TOKENS)})
    request.append_output_token_ids(list(range(BLOCK)))
    assert not driver.step({request: BLOCK}).stores


def test_draft_tokens_are_not_stored():
    driver = Driver()
    request = driver.request(TOKENS[: 2 * BLOCK])
    driver.admit(request)
    meta = driver.step({request: 3 * BLOCK})
    assert len(meta.stores[0].slots) == 2


def test_the_budget_spreads_a_long_prompt_over_steps():
    driver = Driver(store_budget_mb_per_step=4)
    request = driver.request(TOKENS)
    driver.admit(request)
    stored = [sum(len(op.slots) for op in driver.step({request: n}).stores) for n in (len(TOKENS), 0, 0)]
    request.append_output_token_ids(1)
    stored += [sum(len(op.slots) for op in driver.step({request: 1}).stores) for _ in range(3)]
    assert [n for n in stored if n] == [4, 4, 2]


def test_a_busy_kvd_is_not_asked_again_for_the_same_blocks():
    driver = Driver()
    KVD.busy = True
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.step({request: len(TOKENS)})
    asked = KVD.questions.count("prepare_store")
    KVD.busy = False
    request.append_output_token_ids(1)
    driver.step({request: 1})
    assert KVD.questions.count("prepare_store") == asked == 1


def test_blocks_known_to_be_stored_are_not_offered_again():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    asked = KVD.questions.count("prepare_store")
    driver.serve(driver.request(TOKENS), local=10 * BLOCK)
    assert KVD.questions.count("prepare_store") == asked


def test_a_block_that_vanished_is_stored_again():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    KVD.blocks.clear()
    assert len(driver.serve(driver.request(TOKENS))[1].stores[0].slots) == 10


def test_a_silent_kvd_is_left_alone_for_a_while():
    driver = Driver()
    KVD.silent = True
    for _ in range(20):
        driver.serve(driver.request(TOKENS))
    assert len(KVD.questions) == 1


def test_without_kvd_requests_run_and_nothing_is_kept():
    driver = Driver()
    KVD.up = False
    assert driver.serve(driver.request(TOKENS))[:1] == (0,)
    assert empty(driver) and not KVD.questions


def test_a_restarted_kvd_is_filled_again():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    KVD.restart()
    assert len(driver.serve(driver.request(TOKENS))[1].stores[0].slots) == 10


def nvme(driver, rounds):
    driver.serve(driver.request(TOKENS))
    KVD.on_nvme = set(KVD.blocks)
    KVD.staging_rounds = rounds
    return driver.request(TOKENS)


def test_blocks_on_nvme_are_waited_for_between_steps():
    driver = Driver()
    request = nvme(driver, rounds=3)
    assert [driver.admit(request) for _ in range(2)] == [None, None]
    waited = 0
    while driver.admit(request) is None:
        driver.step({})
        waited += 1
    assert waited <= 3
    assert request.num_computed_tokens == 10 * BLOCK
    assert driver.half.hit_sources(request, 160) == {"disk": 160}
    driver.step({request: 3})
    driver.half.finished(request)


def test_an_engine_with_work_does_not_wait_for_nvme():
    driver = Driver()
    request = nvme(driver, rounds=1)
    other = driver.request(range(500, 500 + BLOCK))
    driver.admit(other)
    driver.step({other: BLOCK})
    assert driver.admit(request) is None
    assert driver.admit(request) is None
    driver.half.finished(request)


def test_late_blocks_shorten_the_hit():
    driver = Driver(staging_deadline_ms=0)
    request = nvme(driver, rounds=1000)
    KVD.on_nvme = set(list(KVD.blocks)[4:])
    assert driver.admit(request) == 4 * BLOCK
    driver.step({request: len(TOKENS) - 4 * BLOCK})
    driver.half.finished(request)


def test_an_abort_while_staging_gives_the_lease_back():
    driver = Driver()
    request = nvme(driver, rounds=1000)
    assert driver.admit(request) is None
    driver.half.finished(request)
    assert empty(driver)


def test_a_kvd_that_dies_while_staging_is_a_miss():
    driver = Driver()
    request = nvme(driver, rounds=1000)
    assert driver.admit(request) is None
    KVD.up = False
    assert driver.admit(request) == 0
    driver.half.finished(request)


def test_an_abort_before_the_load_is_shipped_gives_the_lease_back():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.half.finished(request)
    assert not driver.step({}).loads
    assert empty(driver)


def test_slots_lost_between_match_and_load_are_never_read(monkeypatch):
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    request = driver.request(TOKENS)
    found, _ = driver.half.match(request, 0)
    KVD.blocks.clear()
    driver.tables[request.request_id] = [list(range(1, 40))]
    from types import SimpleNamespace

    driver.half.allocated(request, SimpleNamespace(get_block_ids=lambda: driver.tables[request.request_id]), found)
    meta = driver.step({request: 3}, failed=range(10))
    assert meta.loads[0].incarnation == 0
    driver.half.finished(request)


def test_a_corrupt_block_is_reported_and_stored_again():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.step({request: 3}, failed={4}, corrupt={4})
    assert len(KVD.corrupt_reports) == 1
    request.num_computed_tokens = 4 * BLOCK
    meta = driver.step({request: len(TOKENS) - 4 * BLOCK})
    assert len(meta.stores[0].slots) == 1
    driver.half.finished(request)


def test_a_request_whose_loads_keep_failing_stops_asking():
    driver = Driver()
    driver.serve(driver.request(TOKENS))
    request = driver.request(TOKENS)
    for _ in range(2):
        assert driver.admit(request) == 10 * BLOCK
        driver.step({request: 3}, failed={0})
        request.num_computed_tokens = 0
    assert driver.admit(request) == 0
    driver.half.finished(request)


def test_withheld_stores_are_made_up_for():
    driver = Driver()
    request = driver.request(TOKENS)
    driver.admit(request)
    assert len(driver.step({request: len(TOKENS)}, withheld=True).stores) == 1
    assert not KVD.blocks
    request.num_computed_tokens = 0
    assert len(driver.step({request: len(TOKENS)}).stores[0].slots) == 10
    assert len(KVD.blocks) == 10


def test_a_block_counts_when_every_rank_has_stored_it():
    driver = Driver(ranks=2)
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.ranks = 1
    driver.step({request: len(TOKENS)})
    assert not KVD.blocks and driver.half.sizes()["stores"] == 1
    store_id = next(iter(driver.half.stores._under_way))
    from kvd_connectors.vllm.metadata import KvdWorkerMetadata, StoreReport

    driver.half.absorb(KvdWorkerMetadata(stores={store_id: StoreReport({1: [1] * 10})}))
    assert len(KVD.blocks) == 10
    driver.half.finished(request)
    assert empty(driver)


def hybrid():
    return Driver(groups=[group(0, window=40), group(1)])


def test_a_hybrid_model_loads_only_the_window_of_its_windowed_group():
    driver = hybrid()
    driver.serve(driver.request(TOKENS))
    found, meta, _ = driver.serve(driver.request(TOKENS))
    assert found == 10 * BLOCK
    assert {op.group: len(op.slots) for op in meta.loads} == {0: 3, 1: 10}


def test_a_hybrid_hit_is_the_longest_that_both_groups_have():
    driver = hybrid()
    request = driver.request(TOKENS)
    driver.serve(request)
    names = driver.request(TOKENS)
    state = driver.half._requests[names.request_id]
    state.names.extend(len(TOKENS))
    del KVD.blocks[0, state.names.of(driver.groups[0], range(8, 9))]
    assert driver.serve(names)[0] == 8 * BLOCK


def test_null_blocks_are_neither_loaded_nor_stored():
    driver = hybrid()
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.tables[request.request_id][0][:5] = [0] * 5
    meta = driver.step({request: len(TOKENS)})
    assert {op.group: len(op.slots) for op in meta.stores} == {0: 5, 1: 10}
    driver.half.finished(request)


def test_prefill_tells_decode_what_to_expect():
    driver = Driver()
    request = driver.request(TOKENS, params={"do_remote_decode": True})
    _, _, params = driver.serve(request)
    assert params["do_remote_prefill"] and params["kvd"]["num_tokens"] == 10 * BLOCK
    found, _, _ = driver.serve(driver.request(TOKENS, params=params))
    assert found == 10 * BLOCK


def test_decode_waits_for_the_promised_block_but_not_for_ever():
    driver = Driver(remote_wait_ms=50)
    params = driver.serve(driver.request(TOKENS, params={"do_remote_decode": True}))[2]
    KVD.blocks.clear()
    late = driver.request(TOKENS, params=params)
    tries = 0
    while driver.admit(late) is None:
        driver.step({})
        tries += 1
    assert tries > 1 and late.num_computed_tokens == 0
    driver.half.finished(late)


@pytest.mark.parametrize("change", [dict(num_tokens=10**9), dict(last_block_hash="00" * 16), dict(num_tokens="?"), {}])
def test_a_promise_that_makes_no_sense_is_ignored(change):
    driver = Driver()
    params = driver.serve(driver.request(TOKENS, params={"do_remote_decode": True}))[2]
    KVD.blocks.clear()
    params["kvd"] = params["kvd"] | change if change else "?"
    assert driver.serve(driver.request(TOKENS, params=params))[0] == 0


def test_a_prefill_step_ignores_the_budget():
    driver = Driver(store_budget_mb_per_step=1)
    _, meta, _ = driver.serve(driver.request(TOKENS, params={"do_remote_decode": True}))
    assert len(meta.stores[0].slots) == 10


def test_what_is_not_part_of_the_names_is_not_cached():
    driver = Driver()
    driver.request(TOKENS, resumable=True)
    assert empty(driver)


def test_a_consumer_loads_and_does_not_store():
    driver = Driver(stores=False)
    assert not driver.serve(driver.request(TOKENS))[1].stores


def test_a_preempted_request_finds_its_own_blocks():
    driver = Driver()
    request = driver.request(TOKENS)
    driver.admit(request)
    driver.step({request: 8 * BLOCK})
    request.num_computed_tokens = 0
    assert driver.admit(request) == 8 * BLOCK
    driver.step({request: 2 * BLOCK + 3})
    driver.half.finished(request)
    assert empty(driver) and len(KVD.blocks) == 10
