from rfm.reporting.caption import caption
from rfm.reporting.run import read_run


def _caption(files) -> tuple[str, ...]:
    records = read_run(files.workdir).records
    return caption([record for record in records if not record.snapshot])


def test_the_caption_says_how_everything_was_measured(files):
    files.everything()
    assert _caption(files) == (
        "± is one standard error; – was not measured. Lower is better (eigenvalues apart).",
        "Err and Loss: 10,000 test and 10,000 train examples.",
        "RErr and RLoss: PGD-20, 10 restarts, L∞, ε = 8/255, step size 0.007; the "
        "first 1,000 test and 1,000 train examples, of each example the worst case "
        "counts.",
        "Average-case flatness: 10 random weights per batch; weights within ξ = 0.5 of "
        "each layer's norm; RLoss by PGD-20, 1 restart, L∞, ε = 8/255, step size "
        "0.007, reference by PGD-20, 10 restarts; the first 1,000 test examples in "
        "batches of 128.",
        "Worst-case flatness: 20 steps; 10 restarts per batch; weight step 0.001; "
        "weights within ξ = 0.003 of each layer's norm; RLoss jointly with inputs "
        "within L∞, ε = 8/255, input step 0.007, reference by PGD-20, 10 restarts; the "
        "first 1,000 test examples in batches of 128.",
        "Checkpoint: final, step 6000, epoch 60.",
        "Measured with seed 0, float32, matmul precision highest, 2 × cpu, rfm 0.1.0, "
        "jax 0.8.1, git 0123456789ab.",
    )


def test_the_caption_invents_nothing(files):
    files.records(files.evaluation("test", values={}, protocol={}))
    _, *rest = _caption(files)
    assert rest == ["Checkpoint: final, step 6000, epoch 60."]
    assert caption([]) == ()


def test_records_that_disagree_are_told_apart(files):
    files.everything()
    weaker = files.evaluation("train")
    weaker["protocol"]["attack"]["restarts"] = 1
    wider = files.flatness("average", "loss", 0.2, 0.01)
    wider["protocol"]["ball"]["radius"] = 0.75
    wider["protocol"]["device"] = {"platform": "gpu", "kind": "H100", "count": 1}
    files.records(weaker, wider)
    text = "\n".join(_caption(files))
    for line in (
        "RErr and RLoss: PGD-20, 10 restarts, L∞, ε = 8/255, step size 0.007; the "
        "first 1,000 test examples",
        "RErr and RLoss: PGD-20, 1 restart, L∞, ε = 8/255, step size 0.007; the "
        "first 1,000 train examples",
        "Average-case flatness (loss-test): 10 random weights per batch; weights within ξ = 0.75",
        "Average-case flatness (rloss-test): 10 random weights per batch; weights within ξ = 0.5 ",
        "2 × cpu, rfm",
        "1 × gpu (H100), rfm",
    ):
        assert line in text


def test_a_revision_is_short_and_keeps_what_is_said_of_it(files):
    entry = files.evaluation("test")
    for git, text in (
        ("0123456789abcdef-dirty", "git 0123456789ab-dirty."),
        ({"revision": "0123456789abcdef"}, "git 0123456789ab."),
        (None, "jax 0.8.1."),
    ):
        entry["protocol"]["git"] = git
        files.records(entry)
        assert _caption(files)[-1].endswith(text)


def test_another_checkpoint_is_described_where_it_differs(files):
    files.records(
        files.evaluation("test"),
        files.evaluation("test", step=3000, epoch=30.0, checkpoint="best"),
    )
    lines = _caption(files)
    assert not any(line.startswith("At ") for line in lines)
    assert "Checkpoint: final, step 6000, epoch 60; best, step 3000, epoch 30." in lines

    weaker = files.evaluation("test", step=3000, epoch=30.0, checkpoint="best")
    weaker["protocol"]["attack"]["restarts"] = 1
    files.records(weaker)
    (line,) = (line for line in _caption(files) if line.startswith("At "))
    assert line.startswith("At best, step 3000, epoch 30: RErr and RLoss: PGD-20, 1 res")
