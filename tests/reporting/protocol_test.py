import numpy as np
import pytest

from rfm.reporting import protocol
from rfm.reporting.run import read_run


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (8 / 255, "8/255"),
        (float(np.float32(8 / 255)), "8/255"),
        (128 / 255, "128/255"),
        (0.1, "0.1"),
        (0.5, "0.5"),
        (0.0, "0"),
        (1e-7, "1e-07"),
    ],
)
def test_epsilon_is_a_fraction_of_255_where_it_is_one(epsilon, text):
    assert protocol.epsilon_text(epsilon) == text


def test_an_attack_says_what_it_knows_and_nothing_else():
    attack = {"name": "pgd", "threat": {"norm": "Linf", "epsilon": 8 / 255}, "steps": 7}
    assert protocol.attack_text(attack) == "PGD-7, L∞, ε = 8/255"
    assert protocol.attack_text(attack | {"restarts": 1, "step_size": 0.007}) == (
        "PGD-7, 1 restart, L∞, ε = 8/255, step size 0.007"
    )
    assert protocol.attack_text({"name": "square", "norm": "l2"}) == "SQUARE, L2"
    assert protocol.attack_text(None) == "no attack"


def test_a_setting_is_the_one_of_smallest_depth():
    nested = {
        "attack": {"steps": 20, "restarts": None},
        "steps": 5,
        "a": {"b": {"c": 0}},
    }
    assert protocol.setting(nested, "steps") == 5
    assert protocol.setting(nested, "c") == 0
    assert protocol.setting(nested, "restarts") is None


def test_comparison_says_everything_and_repeats_nothing(files):
    records = read_run(files.everything()).records
    shared, own = protocol.comparison(records)
    assert shared["versions.jax"] == "0.8.1"
    assert len(own) == len(records)
    for record, (title, rest) in zip(records, own, strict=True):
        assert record.name in title
        assert not shared.keys() & rest.keys()
        everything = protocol.flatten(record.protocol) | {"seconds": f"{record.seconds:g}"}
        assert shared | rest == everything
    assert protocol.comparison([]) == ({}, [])
