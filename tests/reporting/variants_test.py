"""What is measured beside the table: variants, landscapes, eigenvalues."""

import numpy as np
import pytest

from rfm.reporting import landscapes, read_run, scatter, spectrum, surface3d, table, variants


def flat(files, case, mean, xi=None, **changes):
    """A flatness record of RLoss; at another radius if `xi` says so."""
    entry = files.flatness(case, "rloss", mean, 0.1, **changes)
    if xi is not None:
        entry["protocol"]["ball"]["radius"] = xi
        entry |= {"name": f"{entry['name']}-xi-{xi:g}", "variant": f"xi-{xi:g}"}
    return entry


def records(files, *entries):
    files.records(*entries)
    return read_run(files.workdir).records


def test_radii_are_sorted_and_only_shown_if_there_are_several(files):
    one = flat(files, "average", 1.2)
    assert variants.radii(records(files, one)) is None
    found = variants.radii(
        records(files, one, flat(files, "average", 3.1, 1.0), flat(files, "average", 0.2, 0.25))
    )
    assert [row[1] for row in found.rows] == ["0.25", "0.5", "1"]
    assert [row[2].split()[0] for row in found.rows] == ["0.2", "1.2", "3.1"]


def test_a_radius_that_became_the_configs_is_shown_once(files):
    """The suffixed record of before has the same radius as the plain one of now."""
    again = flat(files, "average", 1.3, 0.5)
    found = variants.radii(
        records(files, flat(files, "average", 1.2), again, flat(files, "average", 2, 1.0))
    )
    assert [row[1] for row in found.rows] == ["0.5", "1"]


def scaled(entry, factor):
    name = f"{entry['name']}-scaled-{factor:g}"
    return entry | {"name": name, "variant": f"scaled-{factor:g}"}


def test_rescaled_networks_have_a_table_and_nothing_else(files):
    plain = [files.evaluation("test"), flat(files, "average", 1.2)]
    entries = [scaled(entry, factor) for entry in plain for factor in (2.0, 0.5)]
    found = records(files, *plain, *entries)
    small = variants.rescaled(found)
    assert [row[0] for row in small.rows] == ["× 0.5", "× 2"]
    assert small.rows[0][1] == "61.0 %"
    assert small.rows[0][2] == "–", "not measured on train"
    main = table(found)
    assert len(main.columns) == 2
    assert not [line for line in main.caption if "scaled" in line]


def test_details_say_where_the_error_comes_from(files):
    entry = flat(files, "average", 1.2)
    entry["values"]["flatness"] |= {
        "interval": [0.9, 1.5],
        "standard_error_of_draws": 0.06,
        "standard_error_of_examples": 0.08,
    }
    entry["values"]["std"] = {"value": 0.2, "standard_error": None, "examples": 1000}
    found = variants.details(records(files, entry))
    row = ("Average-case flatness of RLoss, test", "1.2", "0.9 to 1.5", "0.2", "0.06", "0.08")
    assert found.rows == (row,)
    assert "<td>0.9 to 1.5</td>" in found.to_html()
    assert variants.details(records(files, flat(files, "average", 1.2))) is None


def landscape(files, kind="random", loss="rloss", count=2, steps=5, **changes):
    along = np.linspace(-1, 1, steps)
    curves = [(1 + (number + 1) * along**2).tolist() for number in range(count)]
    name = f"landscape-{kind}-{loss}-test"
    if kind == "surface":
        curves = [(1 + along[:, None] ** 2 + along**2).tolist()]
        name = f"surface-{loss}-test"
    return (
        files.evaluation("test")
        | {
            "kind": "landscape",
            "name": name,
            "values": {},
            "landscape": {
                "steps": along.tolist(),
                "losses": curves,
                "lengths": [[0.5 + number] for number in range(count)]
                if kind != "surface"
                else [[0.5, 0.7]],
            },
        }
        | changes
    )


def test_of_random_directions_the_mean_is_drawn_and_of_adversarial_ones_the_maximum(files):
    records(files, landscape(files), landscape(files, "adversarial"))
    run = read_run(files.workdir)
    figure = landscapes.lines([run], [run.name])
    mean, maximum = (axes.lines[0].get_ydata() for axes in figure.axes)
    along = np.linspace(-1, 1, 5) ** 2
    np.testing.assert_allclose(mean, 1 + 1.5 * along)
    np.testing.assert_allclose(maximum, 1 + 2 * along)
    assert "length 1)" in figure.axes[0].get_xlabel()


def test_several_runs_share_axes_and_surfaces_may_be_of_other_sizes(files):
    records(files, landscape(files), landscape(files, "surface"))
    one = read_run(files.workdir)
    records(files, landscape(files, "surface", steps=7))
    other = read_run(files.workdir)
    figure = landscapes.lines([one, other], ["one", "other"])
    assert len(figure.axes) == 1
    assert len(landscapes.surfaces([one, other], ["one", "other"]).axes) == 3, "and a colour bar"


def test_losses_that_are_not_finite_do_no_harm(files):
    entry = landscape(files, "surface")
    entry["landscape"]["losses"][0][0][0] = None
    run = read_run(files.workdir) if records(files, entry) else None
    assert landscapes.surfaces([run], ["run"]) is not None
    nothing = landscape(files, "surface")
    nothing["landscape"]["losses"] = [[[None] * 5] * 5]
    records(files, nothing)
    assert landscapes.surfaces([read_run(files.workdir)], ["run"]) is None


def test_landscapes_by_filter_are_drawn_where_there_are_none_by_layer(files):
    by_filter = landscape(files, "random") | {"name": "landscape-random-rloss-test-filter"}
    by_filter["landscape"] = {**by_filter["landscape"], "lengths": [[0.25], [0.25]]}
    found = records(files, by_filter)
    assert landscapes.find(found, "random", "rloss")["rloss"].lengths[0][0] == 0.25
    found = records(files, by_filter, landscape(files, "random"))
    assert landscapes.find(found, "random", "rloss")["rloss"].lengths[0][0] == 0.5


def test_without_landscapes_there_is_no_figure(files):
    run = [read_run(files.workdir)] if records(files, files.evaluation("test")) else []
    assert landscapes.lines(run, ["run"]) is None
    assert landscapes.surfaces(run, ["run"]) is None
    assert surface3d.interactive(run[0].records) is None
    assert spectrum.spectral_density(run[0].records) is None
    assert scatter.loss_against_flatness(run[0].records) is None


def test_the_interactive_surface_is_the_same_every_time(files):
    found = records(files, landscape(files, "surface"))
    text = surface3d.interactive(found)
    assert 'id="surface-3d"' in text
    assert "first direction (length 0.5)" in text
    assert text == surface3d.interactive(found)
    assert '"modeBarButtonsToRemove": ["sendChartToCloud"]' in text, "nothing leaves the page"


def test_snapshots_are_points_of_loss_against_flatness(files):
    entries = []
    for step, (loss, mean) in {100: (2.0, 0.3), 200: (2.5, None), 300: (3.0, 0.9)}.items():
        place = {"step": step, "epoch": step / 100, "snapshot": True}
        evaluated = files.evaluation("test", **place)
        evaluated["values"]["rloss"]["value"] = loss
        flatness = flat(files, "average", mean or 0.0, **place)
        flatness["values"]["flatness"]["value"] = mean
        entries += [evaluated, flatness]
    figure = scatter.loss_against_flatness(records(files, *entries))
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, [[0.3, 2.0], [0.9, 3.0]])


def test_a_density_has_an_area_of_one(files):
    entry = files.evaluation("test") | {
        "kind": "curvature",
        "name": "density-loss-test",
        "values": {},
        "density": {
            "nodes": [[0.0, 2.0], [0.1, 2.5]],
            "weights": [[0.7, 0.3], [0.6, 0.4]],
            "dimension": 7,
        },
    }
    figure = spectrum.spectral_density(records(files, entry))
    grid, density = figure.axes[0].lines[0].get_data()
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert figure.axes[0].get_yscale() == "log"
