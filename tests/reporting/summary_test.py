from rfm.reporting.run import read_run
from rfm.reporting.summary import summary
from rfm.reporting.tables import table


def _summary(workdir) -> str:
    run = read_run(workdir)
    return summary(run, table(run.records)).replace("\N{NO-BREAK SPACE}", " ")


def test_every_number_is_of_the_run(files):
    assert _summary(files.everything()) == (
        "This report measures the run “at” after 60 epochs (6,000 training steps). "
        "The classifier gets 20.16 % of the test images wrong. Under attack (PGD-20, "
        "10 restarts, L∞, ε = 8/255, step size 0.007) it gets 61.0 % of them wrong. "
        "On training images the same attack reaches 8.5 %, a robust generalisation gap "
        "of 52.5 percentage points. A random change of the weights within 50 % of each "
        "layer's norm raises RLoss by 1.220 on average. The worst change found within "
        "0.3 % of each layer's norm raises it by 6.491. RErr on the 500 held-out test "
        "images was lowest after epoch 30 (54.5 %) and ended at 62.2 %."
    )


def test_training_alone_says_what_is_left_to_do(files):
    text = _summary(files.training())
    assert text.startswith("This report follows the run “at” after 60 epochs (6,000")
    assert "rfm evaluate" in text
    assert "20.16" not in text


def test_sentences_without_numbers_are_left_out(files):
    files.records(files.evaluation("test", values={}, protocol={}, epoch=None))
    assert _summary(files.workdir) == (
        "This report measures the run “at” after 6,000 training steps."
    )


def test_a_model_from_elsewhere_has_no_training_steps(files):
    for checkpoint, what in (("imported", "imported weights"), ("exported", "an exported model")):
        place = {"step": 0, "epoch": None, "checkpoint": checkpoint}
        files.records(files.evaluation("test", run="Pang", values={}, protocol={}, **place))
        assert _summary(files.workdir) == f"This report measures {what}, “Pang”."


def test_a_run_that_does_not_overfit_ends_at_its_best(files):
    files.metrics({"kind": "validation", "step": 10, "epoch": 1, "rerr": 0.5})
    text = _summary(files.workdir)
    assert "after 1 epoch (10 training steps)" in text
    assert text.endswith("was lowest after epoch 1 (50.0 %), the last snapshot.")
