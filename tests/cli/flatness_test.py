"""``rfm flatness --rescale``, ``curvature``, ``landscape`` and ``compare``, as users have them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

SMALL = (
    "--config.landscape.steps=3",
    "--config.landscape.directions=2",
    "--config.landscape.examples=16",
    "--config.landscape.attack_steps=1",
    "--config.landscape.surface_steps=3",
    "--config.curvature.examples=32",
    "--config.curvature.products=5",
    "--config.curvature.probes=2",
    "--config.snapshots.products=2",
)


@pytest.fixture(scope="module")
def measured(trained, quick_rfm, tmp_path_factory) -> Path:
    """A workdir with flatness at other radii and of a rescaled network."""
    workdir = Path(shutil.copytree(trained, tmp_path_factory.mktemp("measured") / "run"))
    flags = ("--average-radii", "0,0.25", "--worst-radii", "0.001", "--rescale", "0.5,2")
    result = quick_rfm("flatness", "--workdir", workdir, *flags, *SMALL)
    assert (result.status, result.err) == (0, ""), result
    (workdir / "out.txt").write_text(result.out)
    return workdir


def record(workdir: Path, name: str) -> dict:
    (path,) = workdir.glob(f"records/*/{name}.json")
    return json.loads(path.read_text())


def test_other_radii_stand_in_a_table_of_their_own(measured):
    out = (measured / "out.txt").read_text()
    assert "Flatness by radius (Fig. E)" in out
    assert "In detail: bootstrap intervals" in out
    for xi in (0, 0.25):
        for loss in ("loss", "rloss"):
            found = record(measured, f"flatness-average-{loss}-test-xi-{xi:g}")
            assert found["protocol"]["ball"]["radius"] == xi
    # Without a radius the reference's attack, which has more restarts, is never beaten.
    at_zero = record(measured, "flatness-average-rloss-test-xi-0")["values"]["flatness"]
    assert at_zero["value"] <= 1e-6
    assert at_zero["interval"][0] <= at_zero["value"] <= at_zero["interval"][1]
    assert record(measured, "flatness-worst-rloss-test-xi-0.001")
    clean = record(measured, "flatness-average-loss-test-xi-0")["values"]["flatness"]
    assert abs(clean["value"]) < 1e-6


def test_other_radii_go_through_training(measured):
    """Fig. C: both losses, at every snapshot."""
    for name in ("flatness-average-loss-test-xi-0.25", "flatness-worst-rloss-test-xi-0.001"):
        paths = sorted(measured.glob(f"records/*/{name}-snapshot.json"))
        assert [int(path.parent.name) for path in paths] == [5, 10, 15]


def test_rescaling_changes_eigenvalues_and_nothing_else(measured):
    out = (measured / "out.txt").read_text()
    assert "(Fig. F, Table A)" in out
    assert "× 0.5" in out
    half, double = (
        {
            name: record(measured, f"{name}-scaled-{factor:g}")["values"]
            for name in ("evaluation-test", "flatness-average-rloss-test", "curvature-loss-test")
        }
        for factor in (0.5, 2)
    )
    plain = record(measured, "evaluation-test")["values"]
    for scaled in (half, double):
        assert scaled["evaluation-test"]["loss"]["value"] == pytest.approx(
            plain["loss"]["value"], rel=1e-4
        )
    flat = [s["flatness-average-rloss-test"]["flatness"]["value"] for s in (half, double)]
    assert flat[0] == pytest.approx(flat[1], abs=0.1 * abs(flat[1]) + 0.01)
    largest = [s["curvature-loss-test"]["lambda_max"]["value"] for s in (half, double)]
    assert largest[0] > 4 * largest[1]
    worst = [
        record(measured, f"flatness-worst-rloss-test-scaled-{s:g}")["values"]["flatness"]["value"]
        for s in (0.5, 2)
    ]
    assert worst[0] == pytest.approx(worst[1], abs=0.1 * abs(worst[1]) + 0.01)


def test_snapshots_have_clean_flatness_and_lambda_max(measured):
    names = {path.name for path in measured.glob("records/*/*-snapshot.json")}
    for name in ("flatness-average-loss-test", "flatness-worst-rloss-test", "curvature-loss-test"):
        assert f"{name}-snapshot.json" in names


def test_curvature(measured, quick_rfm):
    result = quick_rfm("curvature", "--rloss", "--density", "--workdir", measured, *SMALL)
    assert (result.status, result.err) == (0, ""), result
    assert "Curvature (Table A)" in result.out
    for loss in ("loss", "rloss"):
        found = record(measured, f"curvature-{loss}-test")
        values = found["values"]
        assert values["lambda_max"]["value"] > values["lambda_min"]["value"]
        assert values["lambda_max"]["residual"] >= 0
        assert found["protocol"]["products"] == 5
        density = record(measured, f"density-{loss}-test")
        assert len(density["density"]["nodes"]) == 2
        assert density["protocol"]["probes"] == 2
    assert quick_rfm("report", "--workdir", measured).status == 0
    assert "Spectral density of the Hessian" in (measured / "report.html").read_text()


def test_variants_stay_out_of_table_and_report(measured, quick_rfm, tmp_path):
    """Also with an early checkpoint measured beside them."""
    workdir = Path(shutil.copytree(measured, tmp_path / "run"))
    result = quick_rfm("curvature", "--checkpoint", "5", "--workdir", workdir, *SMALL)
    assert (result.status, result.err) == (0, ""), result
    early = json.loads(next(workdir.glob("records/00000005/curvature-loss-test.json")).read_text())
    assert f"{early['values']['lambda_max']['value']:.4g}" in result.out
    assert quick_rfm("report", "--workdir", workdir).status == 0
    table = (workdir / "report/table.csv").read_text()
    assert table.count("RErr") == 2, "test and train, no rescaled ones"
    assert "scaled" not in table
    page = (workdir / "report.html").read_text()
    assert "The same function, convolutions rescaled (Fig. F, Table A)" in page
    assert "Flatness by radius (Fig. E), test" in page


def test_landscapes_are_drawn_also_beside_others(measured, quick_rfm, tmp_path):
    other = Path(shutil.copytree(measured, tmp_path / "other"))
    kinds = ("--kinds", "random,adversarial,hessian,surface", "--losses", "rloss")
    result = quick_rfm("landscape", "--workdir", measured, *kinds, *SMALL)
    assert (result.status, result.err) == (0, ""), result
    for name in ("landscape.png", "landscape.svg", "surface.png", "surface.svg"):
        assert (measured / name).stat().st_size > 1000
    found = record(measured, "landscape-random-rloss-test")
    assert len(found["landscape"]["losses"]) == 2
    assert found["landscape"]["steps"] == [-1, 0, 1]
    middle = [curve[1] for curve in found["landscape"]["losses"]]
    assert middle == pytest.approx([found["values"]["middle"]["value"]] * 2)
    flags = ("--kinds", "random", "--losses", "loss", "--beside", measured)
    result = quick_rfm("landscape", "--workdir", other, *flags, *SMALL)
    assert (result.status, result.err) == (0, ""), result
    flags = ("--kinds", "random", "--losses", "rloss", "--config.flatness.per=filter")
    flags += ("--rescale", "2")
    assert quick_rfm("landscape", "--workdir", measured, *flags, *SMALL).status == 0
    assert record(measured, "landscape-random-rloss-test") == found, "both stay (Figs. A and B)"
    by_filter = record(measured, "landscape-random-rloss-test-filter")
    assert by_filter["protocol"]["ball"]["per"] == "filter"
    scaled = record(measured, "landscape-random-rloss-test-filter-scaled-2")  # Fig. F
    curves = [np.array(of["landscape"]["losses"]) for of in (by_filter, scaled)]
    np.testing.assert_allclose(*curves, atol=0.05)  # the same function, the same landscape
    report = quick_rfm("report", "--workdir", measured)
    assert report.status == 0, report
    page = (measured / "report.html").read_text()
    assert "Landscapes" in page
    assert 'id="surface-3d"' in page
    assert "src=" not in page.replace("data-src=", "").split("<script")[0], "nothing is fetched"


def test_a_run_compared_with_itself_is_equal(measured, quick_rfm, tmp_path):
    other = Path(shutil.copytree(measured, tmp_path / "other"))
    result = quick_rfm("compare", measured, other)
    assert (result.status, result.err) == (0, ""), result
    lines = " ".join(result.out.split())
    assert "RErr, first 64 test" in lines
    assert "average-case" in lines
    assert "* The interval excludes zero" in lines
    assert "0*" not in lines, "equal runs do not differ"
    assert "not compared" not in lines
    path = next(other.glob("records/*/evaluation-test.json"))
    changed = json.loads(path.read_text())
    changed["protocol"]["seed"] = 7
    path.write_text(json.dumps(changed))
    result = quick_rfm("compare", measured, other)
    assert "is not compared: seed is 0 and 7" in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("flatness --rescale 0,1", "--rescale: the factors must be positive"),
        ("flatness --rescale one", "--rescale: must be numbers >= 0 such as 0.5,1,2, got 'one'"),
        ("flatness --average-radii -1", "--average-radii: must be numbers >= 0"),
        ("landscape --kinds randm", "no kind of landscape 'randm' among"),
        ("landscape --losses err", "no loss 'err' among rloss, loss"),
        ("landscape --beside {new}", "no such directory"),
        ("curvature --config.curvature.leaves=some", "config.curvature.leaves 'some' is not one"),
        ("curvature --config.curvature.products=0", "config.curvature.products must be at least 1"),
        ("flatness --config.flatness.drawn=gauss", "with config.flatness: drawn must be"),
        ("flatness --config.flatness.average.samples=0", "average.samples must be at least 1"),
        (
            "flatness --config.flatness.worst.radius=-1.0",
            "worst.radius must be at least 0",
        ),
        ("landscape --config.landscape.steps=4", "config.landscape.steps must be odd"),
        ("flatness --exported x.npz --rescale 2", "does not say which layers"),
    ],
)
def test_what_is_wrong_is_told(trained, quick_rfm, tmp_path, command, says):
    verb, *flags = command.format(new=tmp_path / "new").split()
    assert says in quick_rfm(verb, "--workdir", trained, *flags).line


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("compare {new} {old}", "no workdir"),
        ("compare {old} {old}", "no measure in common"),
        ("compare {old} {old} --level 2", "--level must be between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_told(trained, quick_rfm, tmp_path, command, says):
    words = command.format(new=tmp_path / "new", old=trained).split()
    assert says in quick_rfm(*words).line
