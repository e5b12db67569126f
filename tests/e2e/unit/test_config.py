import pytest
from kvd_connectors.vllm.config import KvdConfig


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'kvd_socket'"):
        KvdConfig.parse({"kvd_sokcet": "/x"})


def test_a_value_of_the_wrong_type_is_refused():
    for extra in ({"store_budget_mb_per_step": "256"}, {"timeout_ms": True}, {"timeout_ms": -1}, {"kvd_socket": 5}):
        with pytest.raises(ValueError):
            KvdConfig.parse(extra)


def test_no_keys_mean_the_defaults():
    assert KvdConfig.parse({}) == KvdConfig()
