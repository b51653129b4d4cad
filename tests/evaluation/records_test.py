"""Records: found again by protocol, strict JSON, never half a file."""

import dataclasses
import json

import rfm
from rfm.evaluation import records

HEAD = {
    "name": "evaluation-test",
    "step": 30,
    "snapshot": False,
    "protocol": {"steps": 20, "radius": (0.5, 1.0)},
}


def test_found_again_only_with_the_same_protocol(tmp_path):
    records.write(tmp_path, {**HEAD, "values": {"err": 0.25}})
    assert records.find(tmp_path, HEAD)["values"] == {"err": 0.25}
    assert records.find(tmp_path, {**HEAD, "protocol": {**HEAD["protocol"], "steps": 10}}) is None
    assert records.find(tmp_path, {**HEAD, "step": 31}) is None
    assert records.find(tmp_path, {**HEAD, "snapshot": True}) is None


def test_protocol_says_where_it_was_made(tmp_path):
    path = records.write(tmp_path, HEAD)
    protocol = json.loads(path.read_text())["protocol"]
    assert protocol["steps"] == 20
    assert protocol["device"]["platform"] == "cpu"
    assert protocol["device"]["kind"] == records.processor() != "cpu"
    assert protocol["versions"]["rfm"] == rfm.__version__
    assert {"jax", "jaxlib", "flax", "numpy", "python"} <= set(protocol["versions"])
    assert "git" in protocol


def test_not_finite_numbers_become_null(tmp_path):
    path = records.write(
        tmp_path, {**HEAD, "values": {"a": float("nan"), "b": [1.0, float("inf")]}}
    )
    assert json.loads(path.read_text())["values"] == {"a": None, "b": [1.0, None]}


def test_damaged_or_foreign_files_are_measured_again(tmp_path):
    path = records.write(tmp_path, HEAD)
    for text in ("", "{", "[1, 2]", "null", '{"schema": 1}', '{"schema": 99, "protocol": {}}'):
        path.write_text(text)
        assert records.find(tmp_path, HEAD) is None


def test_description_of_an_attack_has_what_changes_the_result():
    attack = rfm.attacks.PGD(rfm.threat.linf(0.1), steps=20, step_size=0.01, restarts=10)
    described = records.describe_attack(attack)
    assert described["threat"] == {"norm": "linf", "epsilon": 0.1}
    assert (described["name"], described["steps"], described["loss"]) == (
        "pgd",
        20,
        "cross_entropy",
    )
    chunked = dataclasses.replace(attack, chunk=64, compiled=False)
    assert records.describe_attack(chunked) == described
    assert json.loads(json.dumps(described)) == described
    assert records.describe_attack(None) is None
    ball = records.describe(rfm.perturb.RelativeBall(0.5))
    assert ball["radius"] == 0.5
    assert ball["exclude"] == "is_normalisation"
