"""Tables B to E over a sweep: columns, order, groups, means, and what is not comparable."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from rfm.configs import base, cifar10, methods

from rfm.reporting import paper_protocol
from rfm.reporting.metrics import Metrics, ValidationMetrics
from rfm.reporting.paper_columns import TABLES
from rfm.reporting.paper_tables import paper_tables
from rfm.reporting.records import Record, Value
from rfm.reporting.run import Run
from rfm.reporting.sweep import Member
from rfm.reporting.sweep_rows import rows
from rfm.reporting.tables import MEASURES

PAPER = methods.paper()
BY_NAME = {row.method or f"zoo:{row.zoo}": row for row in PAPER}
COLUMNS = {column.key: column for layout in TABLES for column in layout.columns}
PER_EPOCH = 10
_LINF = {"norm": "linf", "epsilon": 8 / 255}
_PGD = {"name": "pgd", "threat": _LINF, "steps": 20, "step_size": 0.007}
_STAGES = [{"stage": stage} for stage in ("apgd-ce", "apgd-t", "fab-t", "square")]
_AVERAGE = {"ball": {"radius": 0.5, "per": "layer"}, "samples": 10}
_WORST = {"ball": {"radius": 0.003, "per": "layer"}, "steps": 20, "restarts": 10}
_WORST |= {"weight_step_size": 0.001, "input_step_size": 0.007}
PROTOCOLS = {
    "evaluation": {"attack": {**_PGD, "restarts": 10}},
    "attack": {"threat": _LINF, "stages": _STAGES},
    "flatness-average-loss": {**_AVERAGE, "attack": None, "reference": None},
    "flatness-average-rloss": {
        **{**_AVERAGE, "attack": {**_PGD, "restarts": 1}, "reference": {**_PGD, "restarts": 10}}
    },
    "flatness-worst-loss": {**_WORST, "threat": None, "reference": None},
    "flatness-worst-rloss": {**_WORST, "threat": _LINF, "reference": {**_PGD, "restarts": 10}},
}
"""As the paper has it."""


def records(values, *, step, stop=False, **fields):
    """Records of one checkpoint with values by the paper's columns, its protocol and counts."""
    found = {}
    for key, number in values.items():
        column = COLUMNS[key]
        if number is None or (column.of == "stop") != stop:
            continue
        measure = next(m for m in MEASURES if m.label == column.measure)
        split = column.place[1]
        examples = 10000 if measure.value in ("err", "loss") else 1000
        value = Value(number / (100 if measure.percent else 1), 0.01, examples)
        found.setdefault((measure.record.format(split), split), {})[measure.value] = value
    data = {"source": "tfds:cifar10"}
    for (name, split), of_record in found.items():
        kind = name.removesuffix(f"-{split}").removesuffix("-autoattack")
        protocol = {**PROTOCOLS[kind], "dtype": "float32", "batch_size": 128, "data": data}
        yield Record(
            kind=kind.partition("-")[0],
            name=name,
            split=split,
            values=of_record,
            protocol=protocol,
            snapshot=False,
            run="",
            step=step,
            **fields,
        )


@functools.cache
def of_study(name):
    """The config of ``cifar10.py``, without its checks, which take a tenth of a second."""
    config = base.get_config()
    for part in name.split("+"):
        methods._change(config, part)
    return config.to_dict() | {"name": name}


def member(name, values=None, seed=0, *, best=None, config=None, **fields):
    """A finished run of a method with the paper's config, or others of its fields.

    Early stopping picks the snapshot of the epoch `best`, by default the last one.
    """
    config = {**(of_study(name) if config is None else config.to_dict()), "seed": seed}
    epochs = config["train"]["epochs"]
    values = BY_NAME[name].values if values is None else values
    best, place = best or epochs, {"epoch": float(epochs), "checkpoint": "final", **fields}
    lines = tuple(
        ValidationMetrics(epoch * PER_EPOCH, epoch, None, None, None, abs(epoch - best) / 100, 500)
        for epoch in {5, best, epochs}
    )
    lines = tuple(sorted(lines, key=lambda line: line.step))
    of = list(records(values, step=epochs * PER_EPOCH, **place))
    if best != epochs:
        of += records(values, stop=True, step=best * PER_EPOCH, epoch=best, checkpoint="best")
    run = Run(name, tuple(of), Metrics(validation=lines), config)
    return Member(f"{name}/seed-{seed}", run)


def network(name, values=None, **protocol):
    """A run of imported weights."""
    config = of_study("at")
    values = BY_NAME[f"zoo:{name}"].values if values is None else values
    of = [
        dataclasses.replace(record, protocol={**record.protocol, "zoo": name, **protocol})
        for record in records(values, step=0, epoch=None, checkpoint="imported")
    ]
    return Member(name, Run(name, tuple(of), config={**config, "name": name}))


def tables(*members):
    return {table.layout.letter: table for table in paper_tables(rows(members), PAPER)}


def changed(found, name, **protocol):
    """A member whose record of that name has another protocol."""
    of = tuple(
        dataclasses.replace(record, protocol={**record.protocol, **protocol})
        if record.name == name
        else record
        for record in found.run.records
    )
    return dataclasses.replace(found, run=dataclasses.replace(found.run, records=of))


@pytest.fixture(scope="module")
def whole():
    """The paper's own numbers as a sweep, in no order."""
    best = {"cyclic": 20, "cyclic-x2": 20}
    members = [member(row.method, best=best.get(row.method, 60)) for row in PAPER if row.method]
    networks = [network(row.zoo) for row in PAPER if row.zoo]
    return tables(*np.random.default_rng(0).permutation(np.array([*members, *networks], object)))


def test_columns_are_those_of_the_supplement():
    by_letter = {layout.letter: layout for layout in TABLES}
    assert list(by_letter) == ["B", "C", "D", "E"]
    assert list(by_letter["D"].parts.values()) == [3, 3, 2, 4]
    assert list(by_letter["E"].parts.values()) == [3, 3, 2]
    assert list(by_letter["B"].parts.values()) == list(by_letter["C"].parts.values()) == [3, 3, 2]
    in_d_and_e = [column.key for letter in "DE" for column in by_letter[letter].columns]
    assert in_d_and_e == list(PAPER[0].values), "those of paper.csv, in its order"
    labels = {measure.label for measure in MEASURES}
    assert {column.measure for column in COLUMNS.values()} <= labels


def test_the_papers_numbers_as_runs_give_the_papers_tables(whole):
    assert list(whole) == ["B", "C", "D", "E"]
    for table in whole.values():
        assert table.absent == ()
        for line in table.lines:
            for column in table.layout.columns:
                cell = table.cell(line, column)
                assert float(cell.ours) == pytest.approx(float(cell.papers)), (line.name, column)
        assert table.differences == (), table.layout.letter
        assert "data" in table.alike


def test_table_d_is_sorted_by_autoattack_and_grouped_as_in_the_paper(whole):
    table = whole["D"]
    errors = [line.published.values["rerr_aa_test"] for line in table.lines]
    assert errors == sorted(errors)
    assert [line.group for line in table.lines] == [line.published.group for line in table.lines]
    groups = itertools.groupby(line.group for line in table.lines)
    sizes = [(group, len(list(lines))) for group, lines in groups]
    assert sizes == [("good", 14), ("average", 24), ("poor", 24), ("worse", 12)]
    assert table.group_title("average") == "average: RErr (AA) above 57.0 up to 60.0 %"
    assert table.group_title("worse") == "worse: RErr (AA) above 62.8 %"


def test_table_e_is_sorted_by_rloss_and_not_grouped(whole):
    losses = [line.published.values["rloss_pgd_test"] for line in whole["E"].lines]
    assert losses == sorted(losses)
    assert {line.group for line in whole["E"].lines} == {""}


def test_tables_b_and_c_are_of_the_zoo_in_the_papers_order(whole):
    names = [f"zoo:{row.zoo}" for row in PAPER if row.zoo]
    assert [line.name for line in whole["B"].lines] == names
    assert [line.name for line in whole["C"].lines] == names
    assert not any(line.name in names for letter in "DE" for line in whole[letter].lines)


def test_networks_that_came_later_stand_after_the_papers():
    values = BY_NAME["zoo:Wong2020Fast"].values
    table = tables(network("Gowal2020Uncovering", values), network("Wong2020Fast"))["B"]
    assert [line.name for line in table.lines] == ["zoo:Wong2020Fast", "zoo:Gowal2020Uncovering"]
    assert table.lines[1].published is None
    assert len(table.absent) == 7


def test_means_and_deviations_are_over_seeds():
    values = BY_NAME["at"].values
    members = [
        member(
            "at", {**values, "rerr_pgd_test": 60.0 + seed, "worst_rloss": (None, 4, 6)[seed]}, seed
        )
        for seed in range(3)
    ]
    table = tables(*members)["D"]
    (line,) = table.lines
    mean = line.means["rerr_pgd_test"]
    assert (mean.value, mean.deviation, mean.runs) == pytest.approx((61, 1, 3))
    texts = dataclasses.astuple(table.cell(line, COLUMNS["rerr_pgd_test"]))
    assert texts == ("61.0", "1.0", "", "61.0")
    texts = dataclasses.astuple(table.cell(line, COLUMNS["worst_rloss"]))
    assert texts == ("5.00", "1.41", "(2)", "6.49")
    assert "In parentheses" in " ".join(table.notes)


def test_of_single_runs_the_standard_error_is_shown():
    table = tables(member("at"))["D"]
    assert table.cell(table.lines[0], COLUMNS["rerr_aa_test"]).spread == "1.0"
    assert "standard error over examples" in table.notes[0]


def test_what_is_missing_is_open():
    own = {"rerr_pgd_test": 40.0}
    table = tables(member("at+silu", own), member("at", {"err_test": 20.0}))["D"]
    mine, at = table.lines
    assert (mine.name, mine.published) == ("at+silu", None)
    assert set(at.means) == {"err_test"}
    cell = table.cell(at, COLUMNS["rerr_aa_test"])
    assert (cell.ours, cell.papers) == ("", "62.8")
    assert len(table.absent) == 73
    assert table.absent[0].name == "unlabeled"
    assert tables(member("at", {"err_test": 20.0})).keys() == {"D"}, "nothing for the others"
    assert tables(member("at", {})) == {}


def test_early_stopping_is_of_the_snapshot_that_was_best():
    stopped = {"rerr_pgd_test": 61.0, "rerr_pgd_stop": 52.0, "rerr_aa_stop": 54.0}
    (line,) = tables(member("at", stopped, best=70))["D"].lines
    assert line.value("rerr_pgd_test") == pytest.approx(61)
    assert line.value("rerr_pgd_stop") == pytest.approx(52)
    assert line.value("rerr_aa_stop") == pytest.approx(54)


def test_the_last_snapshot_may_be_the_best():
    table = tables(member("at", {"rerr_pgd_test": 61.0}))["D"]
    assert table.lines[0].value("rerr_pgd_stop") == pytest.approx(61)
    assert "In 1 of 1 run the snapshot that early stopping picks is the last one." in table.notes


def test_early_stopping_is_open_where_a_seed_was_not_measured():
    """Else it would be a mean over seeds that did not overfit."""
    values = {"rerr_pgd_test": 61.0}
    table = tables(member("at", values, 0), member("at", values, 1, best=70))["D"]
    assert table.lines[0].value("rerr_pgd_stop") is None
    assert any(note.startswith("Early stopping is known of 1 of 2 runs") for note in table.notes)


def test_without_metrics_records_say_what_was_best():
    found = member("at", {"rerr_pgd_test": 61.0, "rerr_pgd_stop": 52.0}, best=70)
    bare = dataclasses.replace(found, run=dataclasses.replace(found.run, metrics=Metrics()))
    assert tables(bare)["D"].lines[0].value("rerr_pgd_stop") == pytest.approx(52)


def test_a_snapshot_that_was_best_before_more_training_is_not_early_stopping():
    found = member("at", {"rerr_pgd_test": 61.0, "rerr_pgd_stop": 52.0}, best=70)
    better = ValidationMetrics(800, 80, None, None, None, -1.0, 500)
    lines = (*found.run.metrics.validation, better)
    run = dataclasses.replace(found.run, metrics=Metrics(validation=lines))
    (line,) = tables(dataclasses.replace(found, run=run))["D"].lines
    assert line.value("rerr_pgd_stop") is None


def test_only_the_end_of_training_is_in_the_main_columns():
    found = member("at", {"rerr_pgd_test": 61.0, "rerr_pgd_stop": 52.0}, best=70)
    best = tuple(r for r in found.run.records if r.checkpoint == "best")
    table = tables(dataclasses.replace(found, run=dataclasses.replace(found.run, records=best)))[
        "D"
    ]
    assert set(table.lines[0].means) == {"rerr_pgd_stop"}
    assert "Not measured at the end of training: at/seed-0." in table.notes
    early = dataclasses.replace(
        found.run, metrics=Metrics(validation=found.run.metrics.validation[:2])
    )
    assert tables(dataclasses.replace(found, run=dataclasses.replace(early, records=best))) == {}


def test_other_protocols_at_early_stopping_are_not_averaged():
    values = {"rerr_pgd_test": 61.0, "rerr_pgd_stop": 52.0}
    members = [member("at", values, seed, best=70) for seed in range(2)]
    attack = {"attack": {**_PGD, "restarts": 2}}
    of = members[1].run.records
    weaker = [
        dataclasses.replace(r, protocol={**r.protocol, **attack}) for r in of if r.step == 700
    ]
    run = dataclasses.replace(members[1].run, records=(*(r for r in of if r.step > 700), *weaker))
    found = rows([members[0], dataclasses.replace(members[1], run=run)])
    assert sorted(len(row.members) for row in found) == [1, 1]
    assert any("evaluation-test (early stopping)" in text for row in found for text in row.apart)


def test_other_weights_from_elsewhere_are_in_no_table_and_named():
    mine = network("my-own", BY_NAME["at"].values, zoo="")
    found = tables(mine, member("at"))
    assert found.keys() == {"D", "E"}
    assert [line.name for line in found["D"].lines] == ["at"]
    assert "my-own" in found["D"].notes[-1]


def test_by_pgd_if_not_all_have_autoattack():
    first = member("at", {"rerr_pgd_test": 50.0})
    second = member("silu", {"rerr_pgd_test": 60.0, "rerr_aa_test": 40.0})
    table = tables(second, first)["D"]
    assert [line.name for line in table.lines] == ["at", "silu"]
    assert "Sorted by our RErr (PGD) on test, lowest first." in table.notes


def test_on_other_tasks_groups_are_by_the_rule_of_section_h():
    errors = {"at": 50.0, "silu": 10.0, "gelu": 20.0, "mish": 30.0, "pgd-14": 40.0, "adam": 60.0}
    members = [
        changed(
            member(name, {"rerr_pgd_test": error}), "evaluation-test", data={"source": "digits"}
        )
        for name, error in errors.items()
    ]
    table = tables(*members)["D"]
    assert table.limits == pytest.approx((22, 38, 50)), "30 and 70 percent of 10 to 50"
    groups = {line.name: line.group for line in table.lines}
    assert groups == {
        **{"silu": "good", "gelu": "good", "mish": "average"},
        **{"pgd-14": "poor", "at": "poor", "adam": "worse"},
    }
    assert any("the rule of Section H" in note for note in table.notes)
    small = []
    for name, error in errors.items():
        config = cifar10.get_config(name)
        config.model.width = 16
        values = {"rerr_pgd_test": error, "rerr_aa_test": error}
        small.append(member(name, values, config=config))
    assert tables(*small)["D"].limits == pytest.approx((22, 38, 50)), "another network"
    mixed = tables(*members[:-1], member("adam", {"rerr_pgd_test": 60.0}))["D"]
    assert mixed.limits == ()
    few = tables(*members[:3])["D"]
    assert few.limits == ()
    assert any(note.startswith("Not grouped") for note in few.notes)


@pytest.mark.parametrize(
    ("record", "protocol", "title", "ours"),
    [
        ("evaluation-test", {"data": {"source": "digits"}}, "data", "digits"),
        ("evaluation-test", {"dtype": "bfloat16"}, "number format", "bfloat16"),
        (
            "evaluation-test",
            {"attack": {**_PGD, "restarts": 1}},
            "attack of RErr and RLoss (PGD)",
            "PGD-20, 1 restart, L∞, ε = 8/255, step size 0.007",
        ),
        (
            "attack-autoattack-test",
            {"threat": {"norm": "linf", "epsilon": 4 / 255}},
            "AutoAttack",
            "apgd-ce, apgd-t, fab-t, square; L∞, ε = 4/255",
        ),
        (
            "flatness-average-rloss-test",
            {"samples": 3},
            "average-case flatness",
            "3 random weights per batch; weights within ξ = 0.5 of each layer's norm",
        ),
        (
            "flatness-worst-rloss-test",
            {"input_step_size": 0.1},
            "worst-case flatness of RLoss",
            "RLoss jointly with inputs within L∞, ε = 8/255, input step 0.1, reference by PGD-20,"
            " 10 restarts",
        ),
        ("flatness-worst-loss-test", {"batch_size": 64}, "batches of flatness", "64"),
    ],
)
def test_a_difference_of_measuring_is_named_with_the_papers(record, protocol, title, ours):
    one = member("at", {k: v for k, v in BY_NAME["at"].values.items() if "stop" not in k}, best=70)
    (found,) = tables(changed(one, record, **protocol))["D"].differences
    assert found.title == title
    assert ours in found.ours
    assert ours not in found.papers


def test_differences_of_training_are_named_and_those_of_a_method_are_not():
    own = ("epsilon-9", "batch-size-8", "pgd-14", "cyclic-x3", "trades-6", "awp-0.01+pgd-5",
           "adam", "entropy-sgd-2", "learning-rate-0.1", "const-learning-rate-0.01", "mish",
           "late-multi-step", "no-weight-decay", "weight-decay-0.05")  # fmt: skip
    for name in own:
        assert tables(member(name, {"rerr_pgd_test": 1.0}))["D"].differences == (), name
    config = cifar10.get_config("at")
    config.model.width = 16
    config.train.epochs = 10
    config.adversary.epsilon = 4 / 255
    config.data.update(train_examples=5000, flip=False, crop=0)
    config.optimiser.update(milestones=(4, 8), learning_rate=0.1, weight_decay=0.01)
    found = tables(member("at", {"rerr_pgd_test": 1.0}, config=config))["D"].differences
    assert {(choice.title, choice.ours, choice.papers) for choice in found} == {
        ("network", "resnet18, width 16", "resnet18, width 64"),
        ("epochs", "10", "150"),
        ("ε in training", "4/255", "8/255"),
        ("training examples", "the first 5,000", "all"),
        ("flips", "no", "yes"),
        ("crops (pixels per side)", "0", "4"),
        ("learning rate", "0.1", "0.05"),
        ("learning rate falls at epochs", "4, 8", "60, 90, 120"),
        ("weight decay", "0.01", "0.0005"),
    }


def test_where_rows_differ_it_says_which():
    config = cifar10.get_config("silu")
    config.train.epochs = 10
    few = member("silu", {"rerr_pgd_test": 1.0}, config=config)
    (found,) = tables(few, member("at"), member("gelu"))["D"].differences
    assert (found.title, found.ours) == ("epochs", "10 (silu) or 150 (all others)")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("tfds:cifar10", "CIFAR-10"),
        ("/data/cifar10.npz", "CIFAR-10"),
        ("/data/CIFAR-10", "CIFAR-10"),
        ("tfds:cifar100", "cifar100"),
        ("digits", "digits"),
        (None, ""),
    ],
)
def test_data_are_called_by_name_wherever_they_are(source, name):
    assert paper_protocol.data_text(source) == name


def test_without_the_papers_rows_ours_stand_alone():
    (d, _) = paper_tables(rows([member("at")]), ())
    assert d.lines[0].published is None
    assert d.absent == ()
