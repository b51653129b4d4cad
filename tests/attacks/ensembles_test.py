"""The published ensembles."""

from rfm import losses
from rfm.attacks.ensembles import plus, rand, standard
from rfm.threat import l2, linf


def test_standard_is_the_published_ensemble():
    ball = linf(8 / 255)
    stages = standard(ball)
    assert [s.name for s in stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    ce, t, fab, square = (s.attack for s in stages)
    assert (ce.steps, t.steps, fab.steps, square.queries) == (100, 100, 100, 5000)
    assert ce.loss is losses.cross_entropy
    assert t.loss is losses.targeted_difference_of_logits_ratio
    assert [s.passes for s in stages] == [1, 9, 9, 1]
    assert [s.targeted for s in stages] == [False, True, True, False]
    assert (square.initial_share, square.rescale) == (0.8, False)


def test_plus_and_rand_are_the_published_ensembles():
    stages = plus(l2(0.5))
    names = ["apgd-ce", "apgd-dlr", "fab", "fab", "square", "apgd-t", "fab-t"]
    assert [s.name for s in stages] == names
    assert [s.passes for s in stages] == [5, 5, 1, 4, 1, 9, 9]
    assert [s.attack.random_start for s in stages[2:4]] == [False, True]
    assert [(s.name, s.attack.draws) for s in rand(l2(0.5))] == [("apgd-ce", 20), ("apgd-dlr", 20)]
