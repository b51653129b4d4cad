"""Measuring a checkpoint: the right examples, once, and resumable."""

import dataclasses

import jax
import numpy as np
import pytest
from rfm.configs import digits

import rfm
from rfm import models
from rfm.data.augment import to_float
from rfm.devices import make_mesh
from rfm.errors import UserError
from rfm.evaluation.evaluate import evaluation_tasks
from rfm.evaluation.measure_flatness import flatness_tasks
from rfm.evaluation.robustness import clean
from rfm.evaluation.tasks import Subject, carry_out, key_for
from rfm.models import imported
from rfm.training import build

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def subject():
    config = digits.get_config()
    config.data.train_examples = 160
    config.model.width = 4
    config.evaluation.update(
        examples=24, steps=2, restarts=2, batch_size=16, clean_train_examples=50
    )
    config.flatness.average.update(samples=2, steps=2)
    config.flatness.worst.update(steps=2, restarts=2)
    config.snapshots.update(examples=16, steps=1, average_samples=2)
    run = dataclasses.replace(build.build(config), mesh=make_mesh(1))
    return Subject.of_state(run, run.initial_state(), "final")


@pytest.fixture(scope="module")
def measured(subject, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("measured")
    evaluated = carry_out(evaluation_tasks(subject), workdir)
    flat = carry_out(flatness_tasks(subject, {r["split"]: r for r in evaluated}), workdir)
    return workdir, evaluated, flat


def test_examples_are_those_of_section_f(subject, measured):
    _, (test, train), _ = measured
    assert test["values"]["err"]["examples"] == 500  # the whole test set
    assert train["values"]["err"]["examples"] == 50  # clean_train_examples
    for record in (test, train):
        assert record["values"]["rerr"]["examples"] == 24
        assert record["protocol"]["examples"] == {"split": record["split"], "first": 0, "count": 24}
        assert len(record["per_example"]["rloss"]) == 24


def test_values_are_those_of_the_functions(subject, measured):
    _, (test, _), _ = measured
    run, logits_fn = subject.run, subject.logits_fn
    natural = clean(logits_fn, run.dataset.test_images, run.dataset.test_labels)
    assert test["values"]["loss"]["value"] == pytest.approx(natural.loss.mean(), rel=1e-5)
    assert test["values"]["err"]["value"] == pytest.approx(1 - natural.correct.mean())
    robust, correct = (np.array(test["per_example"][k]) for k in ("robust", "correct"))
    assert test["values"]["rerr"]["value"] == pytest.approx(1 - robust.mean())
    assert not (robust & ~correct).any()
    values = test["values"]
    n = values["rloss_correct"]["examples"]
    split = (n * (values["rloss_correct"]["value"] or 0)) + (24 - n) * values["rloss_incorrect"][
        "value"
    ]
    assert values["rloss"]["value"] == pytest.approx(split / 24)


def test_flatness_subtracts_the_evaluations_losses(subject, measured):
    _, (test, _), flat = measured
    assert [r["name"] for r in flat] == [
        "flatness-average-loss-test",
        "flatness-average-rloss-test",
        "flatness-worst-loss-test",
        "flatness-worst-rloss-test",
    ]
    for record in flat:
        values = record["values"]
        assert record["per_example"]["reference"] == pytest.approx(
            test["per_example"][record["loss"]]
        )
        difference = values["perturbed"]["value"] - values["reference"]["value"]
        assert values["flatness"]["value"] == pytest.approx(difference, abs=1e-9)
        assert values["flatness"]["standard_error"] >= 0
        assert ("std" in values) == (record["case"] == "average")


def test_flatness_is_that_of_the_library(subject, measured):
    _, (test, _), flat = measured
    run = subject.run
    record = next(r for r in flat if r["name"] == "flatness-average-rloss-test")
    found = rfm.flatness.average_case(
        subject.apply_fn,
        subject.params,
        np.asarray(to_float(run.dataset.test_images[:24])),
        run.dataset.test_labels[:24],
        key_for(0, "average_case-test"),
        ball=rfm.perturb.RelativeBall(0.5),
        samples=2,
        attack=rfm.attacks.PGD(rfm.threat.linf(0.1), steps=2, step_size=0.02),
        reference=np.array(test["per_example"]["rloss"]),
        batch_size=16,
    )
    assert record["values"]["flatness"]["value"] == pytest.approx(found.value, abs=1e-4)


def test_what_is_on_disk_is_not_measured_again(subject, measured):
    workdir, evaluated, _ = measured
    files = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json")}

    def fail(*_):
        raise AssertionError("measured again")

    tasks = [dataclasses.replace(t, compute=fail) for t in evaluation_tasks(subject)]
    again = carry_out(tasks, workdir)
    assert [r["values"] for r in again] == [r["values"] for r in evaluated]
    assert files == {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json")}
    with pytest.raises(AssertionError, match="measured again"):
        carry_out(tasks, workdir, again=True)


def test_snapshots_have_their_own_smaller_protocol(subject, measured):
    workdir, *_ = measured
    small = dataclasses.replace(subject, snapshot=True)
    evaluated = carry_out(evaluation_tasks(small), workdir)
    tasks = flatness_tasks(small, {r["split"]: r for r in evaluated})
    assert [t.record["name"] for t in tasks] == [
        "flatness-average-loss-test",
        "flatness-average-rloss-test",
        "flatness-worst-loss-test",
        "flatness-worst-rloss-test",
    ]
    for record in evaluated:
        assert record["snapshot"] is True
        assert record["values"]["err"]["examples"] == 16
        assert record["protocol"]["attack"]["steps"] == 1
    assert len(list(workdir.rglob("evaluation-test*.json"))) == 2, "the full record is kept"


def test_adversarial_examples_to_look_at(measured):
    _, (test, train), _ = measured
    shown = test["adversarial"]
    assert len(shown["images"]) == len(shown["predictions"]) == 8
    difference = np.array(shown["adversarial_images"]) - np.array(shown["images"]) / 255
    assert 0 < np.abs(difference).max() <= 0.1 + 1e-4
    assert "adversarial" not in train


@pytest.mark.parametrize("names", ["own", "torch"])
def test_imported_weights_are_measured_as_the_checkpoint_they_come_from(
    subject, measured, tmp_path, names
):
    run, (batch_stats,) = subject.run, subject.apply_fn.args
    if names == "own":
        arrays = imported.own_names(subject.params, batch_stats)
    else:
        arrays = models.to_torch(subject.params, batch_stats, run.model)
    np.savez(tmp_path / "w.npz", **arrays)
    config = run.config.copy_and_resolve_references()
    config.model.update(weights=str(tmp_path / "w.npz"), weights_sha256="f" * 64, zoo="Name")
    other = Subject.of_weights(dataclasses.replace(run, config=config))
    assert (other.step, other.epoch, other.checkpoint) == (0, None, "imported")
    (test, _), expected = carry_out(evaluation_tasks(other), tmp_path), measured[1][0]
    assert test["values"] == expected["values"]
    assert test["per_example"] == expected["per_example"]
    assert test["protocol"]["weights"] == "f" * 64
    assert test["protocol"]["zoo"] == "Name"
    (tmp_path / "w.npz").unlink()
    with pytest.raises(UserError, match="no such file"):
        Subject.of_weights(dataclasses.replace(run, config=config))


def test_purposes_do_not_share_keys():
    names = ["average_case-test", "average_case-train", "worst_case-test", "evaluation-test"]
    keys = {tuple(np.asarray(jax.random.key_data(key_for(0, name)))) for name in names}
    assert len(keys) == 4
