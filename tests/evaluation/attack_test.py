"""Records of AutoAttack: right examples, resumable batch by batch."""

import dataclasses
import json

import numpy as np
import pytest
from rfm.configs import digits

from rfm.data.augment import to_float
from rfm.devices import make_mesh
from rfm.evaluation import attack as attacks
from rfm.evaluation.attack import attack_tasks
from rfm.evaluation.tasks import Subject, carry_out
from rfm.training import build

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def subject():
    config = digits.get_config()
    config.data.train_examples = 160
    config.model.width = 4
    config.evaluation.update(examples=24, steps=2, restarts=2, batch_size=16)
    run = dataclasses.replace(build.build(config), mesh=make_mesh(1))
    return Subject.of_state(run, run.initial_state(), "final")


def carried_out(subject, workdir, name="apgd-t", again=False, progress=lambda *a: None):
    tasks = attack_tasks(subject, name, workdir, splits=("test",))
    return carry_out(tasks, workdir, again=again, progress=progress)[0]


@pytest.fixture(scope="module")
def record(subject, tmp_path_factory):
    return carried_out(subject, tmp_path_factory.mktemp("whole"))


def test_values_are_those_of_the_examples(subject, record):
    run = subject.run
    robust = np.array(record["per_example"]["robust"])
    assert record["values"]["rerr"]["examples"] == len(robust) == 24
    assert record["values"]["rerr"]["value"] == pytest.approx(1 - robust.mean())
    predicted = np.asarray(subject.logits_fn(to_float(run.dataset.test_images[:24]))).argmax(-1)
    wrong = predicted != run.dataset.test_labels[:24]
    broken_by = np.array(record["per_example"]["broken_by"])
    np.testing.assert_array_equal(broken_by == "clean", wrong)
    assert sum(record["broken_by"].values()) == (~robust).sum()
    rloss = record["per_example"]["rloss"]
    assert record["values"]["rloss"]["value"] == pytest.approx(np.mean(rloss))


def test_the_protocol_says_everything(record):
    (stage,) = record["protocol"]["stages"]
    assert (stage["stage"], stage["passes"], stage["targeted"]) == ("apgd-t", 9, True)
    assert (stage["name"], stage["steps"]) == ("apgd", 100)
    assert stage["loss"] == "targeted_difference_of_logits_ratio"
    assert record["protocol"]["threat"] == {"norm": "linf", "epsilon": 0.1}
    json.dumps(record)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("batches", [1, 3])
def test_stopped_after_a_batch_it_goes_on_there(subject, record, batches, tmp_path):
    told = []

    def stop(task, done, total, fields):
        told.append(fields)
        if len(told) == 1 + batches:  # the first says that nothing is done yet
            raise Stopped

    with pytest.raises(Stopped):
        carried_out(subject, tmp_path, progress=stop)
    (stored,) = tmp_path.rglob("*.progress.npz")
    with np.load(stored, allow_pickle=False) as archive:
        stage, tried = int(archive["stage"]), int(archive["tried"])
    seen = []
    found = carried_out(subject, tmp_path, progress=lambda *a: seen.append(a))
    assert found["per_example"] == record["per_example"]
    assert not list(tmp_path.rglob("*.progress.npz")), "a finished attack needs none"
    assert (stage, tried) > (0, 0)
    assert len(seen) < len(whole_calls(subject, tmp_path / "other"))


def whole_calls(subject, workdir):
    calls = []
    carried_out(subject, workdir, progress=lambda *a: calls.append(a))
    return calls


def test_progress_ascends_and_shows_the_robust_accuracy(subject, tmp_path):
    calls = whole_calls(subject, tmp_path)
    done = [call[1] for call in calls]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 24)
    accuracies = [call[3]["robust_accuracy"] for call in calls[1:]]
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", "other protocol", "pickle"])
def test_a_damaged_or_foreign_state_is_not_used(subject, record, damage, tmp_path):
    tasks = attack_tasks(subject, "apgd-t", tmp_path, splits=("test",))
    path = attacks.records.path_of(tmp_path, tasks[0].record).with_suffix(".progress.npz")
    path.parent.mkdir(parents=True)
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        identity = np.array("{}") if damage == "other protocol" else np.array([{}], object)
        with path.open("wb") as file:
            np.savez(file, identity=identity)
    assert carried_out(subject, tmp_path)["per_example"] == record["per_example"]


def test_pgd_as_an_attack_is_that_of_the_config(subject, tmp_path):
    """And breaks what it finds any misclassified iterate for."""
    found = carried_out(subject, tmp_path, name="pgd")
    (stage,) = found["protocol"]["stages"]
    assert (stage["name"], stage["steps"], stage["restarts"]) == ("pgd", 2, 2)
