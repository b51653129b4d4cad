"""Every method by name: it builds, it trains, and the paper's numbers beside it are the paper's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rfm.configs import base, cifar10, cifar10_small, digits, methods

from rfm.data import extra
from rfm.errors import UserError
from rfm.training import axes
from rfm.training.build import build
from rfm.training.dispatch import make_dispatch
from rfm.training.feed import Resident

ROWS = methods.paper()
PAPER = [row for row in ROWS if row.method]


def column(name):
    return np.array([row.values[name] for row in PAPER])


def test_every_row_of_the_paper_is_a_method():
    assert len(PAPER) == 74
    assert len({row.method for row in PAPER}) == 74
    assert {row.method for row in PAPER} <= set(methods.names())


def test_correlations_are_the_papers():
    """Section D: 0.85 for flatness of RLoss, and 0.27 (0.278) for flatness of Loss."""
    rloss = column("rloss_pgd_test")
    assert np.corrcoef(rloss, column("average_rloss"))[0, 1] == pytest.approx(0.85, abs=0.005)
    assert np.corrcoef(rloss, column("average_loss"))[0, 1] == pytest.approx(0.27, abs=0.01)


def test_groups_are_those_of_section_h():
    """About 30 and 70 percent of the methods with RErr of at most 62.8."""
    groups = [row.group for row in PAPER]
    counts = {name: groups.count(name) for name in ("good", "average", "poor", "worse")}
    assert counts == {"good": 14, "average": 24, "poor": 24, "worse": 12}
    errors = column("rerr_aa_test")
    assert (np.diff(errors) >= 0).all(), "Table D is sorted by it"
    baseline = next(row for row in PAPER if row.method == "at")
    assert (baseline.values["rerr_aa_test"], baseline.group) == (62.8, "poor")


def test_numbers_hang_together():
    """AutoAttack is stronger than PGD, robust losses are larger, and early stopping helps."""
    assert (column("rerr_aa_test") >= column("rerr_pgd_test")).all()
    assert (column("rerr_pgd_test") > column("err_test")).all()
    assert (column("rloss_pgd_test") > column("loss_test")).all()
    assert (column("rloss_pgd_train") > column("loss_train")).all()
    assert (column("rerr_aa_stop") <= column("rerr_aa_test")).all()
    robustbench = [row for row in ROWS if not row.method]
    assert len(robustbench) == 8
    assert all(row.zoo for row in robustbench)
    assert not any(row.zoo for row in PAPER)
    assert all(row.values["average_loss"] is None for row in robustbench)
    assert all(row.values["rloss_aa_test"] for row in robustbench)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_a_valid_config_of_its_own(name):
    config = cifar10.get_config(name)
    assert config.name == name
    schedule = axes.schedule(config.optimiser, 390)
    axes.method(config, 10, schedule)
    plain = dict(methods._fields(cifar10.get_config("at")))
    changed = {k for k, v in methods._fields(config) if v != plain[k]} - {"name"}
    assert changed or name in ("at", "const-learning-rate-0.05")


def test_every_family_says_what_it_is_in_a_line():
    for name, family in methods.METHODS.items():
        assert 10 < len(family.summary) < 100, name
        assert family.summary.endswith("."), name


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "pgd-7-2",
            {"adversary.steps": 7, "adversary.stop_early": True, "adversary.stop_after": 2},
        ),
        ("pgd-14", {"adversary.steps": 14, "adversary.stop_early": False}),
        ("cyclic-x3", {"train.epochs": 90, "optimiser.cycle": 30, "optimiser.learning_rate": 0.2}),
        ("late-multi-step", {"optimiser.milestones": (140, 145)}),
        ("epsilon-9", {"adversary.epsilon": 9 / 255, "evaluation.epsilon": 8 / 255}),
        ("awp-0.01-7", {"weight_adversary.radius": 0.01, "weight_adversary.steps": 7}),
        ("const-learning-rate-0.005", {"optimiser.learning_rate": 0.005}),
        ("trades-6", {"objective.weight": 6.0, "adversary.loss": "kl"}),
        ("at", {"optimiser.weight_decay": 0.0005}),
    ],
)
def test_hyper_parameters_are_the_papers(name, fields):
    found = dict(methods._fields(cifar10.get_config(name)))
    for field, value in fields.items():
        assert found[field] == pytest.approx(value), field


def test_small_configs_get_a_share_of_the_epochs():
    config = cifar10_small.get_config("cyclic-x2")
    assert (config.optimiser.cycle, config.train.epochs) == (2, 4)
    assert cifar10_small.get_config("late-multi-step").optimiser.milestones == (10, 11)
    assert digits.get_config("late-multi-step").optimiser.milestones == (18, 19)


def test_methods_joined_are_done_together():
    config = cifar10.get_config("awp-0.01+label-noise-0.3+weight-averaging-0.99")
    found = axes.method(config, 10, axes.schedule(config.optimiser, 390))
    assert found.weight_adversary.ball.radius == 0.01
    assert found.label_noise == 0.3
    assert found.after[0].tau == 0.99


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plian", "did you mean 'plain'"),
        ("awp", "method 'awp' must be like awp-0.0005, "),
        ("awp-x", "no method|not one of"),
        ("trades-6-6", "must be like trades-1"),
        ("batch-size-8.5", "must be like batch-size-8"),
        ("trades-6+mart-6", "methods trades-6 and mart-6 both set config.objective.name"),
        ("awp-0.01+sam-0.05", "both set config.weight_adversary.name"),
        ("pgd-5+pgd-7-2", "both set config.adversary.steps"),
        ("adam+const-learning-rate-0.05", "both set config.optimiser.learning_rate"),
        ("const-learning-rate-0.05+adam", "both set config.optimiser.learning_rate"),
        ("cyclic+late-multi-step", "both set config.optimiser.milestones"),
        ("awp-x0.01", "must be like"),
        ("cyclic-3", "must be like cyclic, cyclic-x2"),
        ("", None),
    ],
)
def test_names_that_are_wrong_are_told(name, line):
    if line is None:
        assert methods.apply(base.get_config(), name).name == "at"
        return
    with pytest.raises(UserError, match=line):
        methods.apply(base.get_config(), name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain+trades-6", "compares clean with adversarial inputs"),
        ("plain+pgd-7-1", "nothing to stop early"),
        ("trades-6+prevent-label-leaking", "attacks the prediction"),
        ("ignore-incorrect+prevent-label-leaking", "two answers to one question"),
        ("self-supervision-4+pgd-7-1", "attacks rotations, too"),
        ("self-supervision-4+unlabeled", "every second"),
        ("awp-0", "needs a radius"),
        ("mart-6+label-smoothing-0.1", "no smoothed form"),
        ("label-noise-1.5", "label_noise must be from 0 to 1"),
        ("label-smoothing-1", "config.objective: label smoothing"),
        ("weight-averaging-1", "config.after: tau"),
        ("self-supervision-4+batch-size-7", "must be even"),
        ("sam-0.05+entropy-sgd-0", "config.optimiser.inner_steps belongs to"),
    ],
)
def test_contradictions_are_refused_with_the_reason(name, line):
    with pytest.raises(UserError, match=line):
        build(digits.get_config(name))


def test_joined_methods_may_stand_in_any_order():
    parts = ["cyclic", "awp-0.01", "batch-size-64", "label-noise-0.2", "late-multi-step"][:4]
    configs = [
        dict(methods._fields(cifar10.get_config("+".join(order))))
        for order in (parts, parts[::-1], parts[2:] + parts[:2])
    ]
    for config in configs:
        config.pop("name")
        assert config == configs[0]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"optimiser.cycle": 4}, "cycle replaces milestones"),
        ({"weight_adversary.steps": 2}, "need a config.weight_adversary.name"),
        ({"data.autoaugment": True, "data.source": "{two}"}, "for 1 or 3 channels"),
        ({"objective.name": "self_supervision", "data.source": "{wide}"}, "must be square"),
        ({"optimiser.milestones": (10**8,)}, "milestones must be epochs from 0 to"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(tmp_path, fields, line):
    for name, shape in (("two", (8, 8, 2)), ("wide", (8, 6, 1))):
        x, y = np.zeros((40, *shape), np.uint8), np.arange(40) % 4
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    config = digits.get_config("at")
    config.train.batch_size = 8
    for field, value in fields.items():
        section, key = field.split(".")
        if key == "source":
            value = str(tmp_path / f"{value[1:-1]}.npz")
        config[section][key] = value
    with pytest.raises(UserError, match=line):
        build(config)


def test_a_rotation_head_is_trained_but_not_measured(extra_file):
    run = build(tiny("self-supervision-1", extra_file))
    state = run.initial_state()
    names = set(state.params) - set(run.evaluated(state).params)
    assert names == {"rotation_hidden", "rotation_head"}


@pytest.fixture
def extra_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    path = tmp_path / "extra.npz"
    path.write_bytes(extra.dumps(images, np.arange(40) % 10))
    return str(path)


@pytest.fixture
def forgetful():
    """See `forget_compiled_programs`: here after each test."""
    yield
    jax.clear_caches()


def tiny(name, extra_file):
    config = digits.get_config(name)
    config.data.train_examples = 160
    config.model.update(name="resnet8", width=2)
    config.train.batch_size = min(config.train.batch_size, 16)
    config.adversary.steps = min(config.adversary.steps, 2)
    if config.data.extra:
        config.data.extra = extra_file
    return config


KINDS = [f"{family}-{m.numbers[0]}".rstrip("-") for family, m in methods.METHODS.items()]
OTHERS = [name for name in methods.names() if name not in KINDS]
TOGETHER = [
    "awp-0.01+label-noise-0.3+weight-averaging-0.99",
    "entropy-sgd-2+weight-clipping-0.05+silu",
    "trades-6+label-smoothing-0.1+autoaugment",
    "self-supervision-2+sam-0.05+dropout",
]


@pytest.mark.usefixtures("quick_compilation", "forgetful")
@pytest.mark.parametrize(
    "name",
    [*KINDS, *TOGETHER, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def test_every_method_trains(name, extra_file):
    """Two steps on a small network: finite, and another network than before."""
    run = build(tiny(name, extra_file))
    data = Resident(run, run.extra()).take(2)
    state = run.initial_state()
    before = jax.device_get(state.params)
    dispatch = make_dispatch(
        run.method, run.network, run.mesh, batch_size=run.config.train.batch_size, longest=2
    )
    state, metrics = jax.device_get(dispatch(state, data, run.key("train"), jnp.int32(2)))
    assert np.isfinite(metrics["loss"]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, state.params)
    assert max(jax.tree.leaves(moved)) > 0
    params, batch_stats = run.evaluated(state)
    x = jax.ShapeDtypeStruct((4, *run.dataset.image_shape), jnp.float32)
    assert jax.eval_shape(run.apply_fn(batch_stats), params, x).shape == (4, 10)
