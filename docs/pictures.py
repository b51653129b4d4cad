"""Draws the pictures of docs/concepts.md: ``python docs/pictures.py [NAME ...]``.

Two weights and a closed form, and the networks of ``toy.py`` on the embedded digits. All that is
measured is measured by `rfm`. The files in docs/images are what this wrote on a CPU; other
machines round differently, so curves may differ a little.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from toy import (
    EPSILON,
    KEY,
    LINF,
    NAMES,
    PGD_7,
    PGD_20,
    PGD_20_10,
    PLAIN,
    ROBUST,
    apply_fn,
    data,
    networks,
    train,
)

import rfm
from rfm.reporting import style

IMAGES = Path(__file__).parent / "images"


def robust_loss() -> Figure:
    """A digit and its adversarial examples; RErr and RLoss over epsilon."""
    _, _, x, y = data()
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    images = figure.add_gridspec(2, 5, width_ratios=[1, 1, 1, 2.6, 2.6])
    curves = [figure.add_subplot(images[:, column]) for column in (3, 4)]
    found = {k: PGD_20_10(rfm.types.bind(apply_fn, p), x, y, KEY) for k, p in networks().items()}
    # The first digit that breaks one network and not the other.
    right = np.asarray(apply_fn(networks()[PLAIN], x).argmax(1) == y)
    one = int(np.flatnonzero(right & np.asarray(found[PLAIN].success & ~found[ROBUST].success))[0])
    for row, (name, params) in enumerate(networks().items()):
        adversarial = np.asarray(found[name].x[one])
        shown = (x[one], 0.5 + (adversarial - x[one]) / (2 * EPSILON), adversarial)
        for column, image in enumerate(shown):
            axes = figure.add_subplot(images[row, column])
            axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(False)
            if column != 1:
                says = int(apply_fn(params, jnp.asarray(image)[None]).argmax())
                axes.set_xlabel(f'"{says}"', fontweight="bold", color=style.colour(name))
            else:
                axes.set_xlabel("added")
        epsilons = np.linspace(0, 0.2, 11)
        points = []
        for epsilon in epsilons:
            threat = rfm.threat.linf(float(epsilon))
            attack = rfm.attacks.PGD(threat, steps=20, step_size=float(epsilon) / 8)
            points.append(attack(rfm.types.bind(apply_fn, params), x, y, KEY))
        errors = [100 * float(p.success.mean()) for p in points]
        losses = [float(p.loss.mean()) for p in points]
        for axes, values in zip(curves, (errors, losses), strict=True):
            axes.plot(epsilons, values, color=style.colour(name), label=NAMES[name])
    for axes, title, top in zip(curves, ("RErr (%)", "RLoss"), (100, 6), strict=True):
        axes.set(xlabel="epsilon", ylim=(0, top), xlim=(0, 0.2))
        axes.set_title(title)
        axes.axvline(EPSILON, color=style.colour("muted"), linewidth=0.8, linestyle=":")
    curves[0].legend(loc="lower right", fontsize=8)
    return figure


def landscapes() -> Figure:
    """Loss and RLoss along random and adversarial directions."""
    _, _, x, y = (v[:128] for v in data())
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    random, adversarial = figure.subplots(1, 2)
    for name, params in networks().items():
        ball = rfm.perturb.RelativeBall(0.5)
        keys = jax.random.split(jax.random.key(1), 10)
        randoms = [ball.random_direction(key, params) for key in keys]
        small = rfm.perturb.RelativeBall(0.025)
        for attack, threat, dashed in ((PGD_20, LINF, "-"), (None, None, "--")):
            worst = rfm.flatness.adversarial_directions(
                apply_fn,
                params,
                x,
                y,
                KEY,
                ball=small,
                threat=threat,
                input_step_size=0.01,
                weight_step_size=0.0025,
            )
            for axes, directions, reduce in (
                (random, randoms, np.mean),
                (adversarial, [small.direction(d, params) for d in worst], np.max),
            ):
                paths = [
                    rfm.flatness.landscape(apply_fn, params, d, x, y, KEY, attack=attack)
                    for d in directions
                ]
                steps, losses = paths[0].steps, np.stack([path.mean for path in paths])
                label = f"{'RLoss' if attack else 'Loss'}, {NAMES[name]}"
                axes.plot(
                    steps, reduce(losses, axis=0), dashed, color=style.colour(name), label=label
                )
                if axes is random and attack:
                    low, high = losses.min(0), losses.max(0)
                    axes.fill_between(steps, low, high, color=style.colour(name), alpha=0.15, lw=0)
    random.set_title("random directions, length 0.5")
    adversarial.set_title("adversarial directions, length 0.025")
    for axes in (random, adversarial):
        axes.set(xlabel="step", xlim=(-1, 1))
        axes.set_ylim(bottom=0)
    figure.legend(*random.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def average_worst() -> Figure:
    """Average- and worst-case flatness over the radius, and single draws."""
    _, _, x, y = data()
    params = networks()[ROBUST]
    reference = rfm.flatness.reference(apply_fn, params, x, y, KEY, attack=PGD_20_10)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    radii = np.geomspace(0.001, 1, 13)
    average, worst = [], []
    for radius in map(float, radii):
        ball = rfm.perturb.RelativeBall(radius)
        settings = {"ball": ball, "reference": reference}
        found = rfm.flatness.average_case(apply_fn, params, x, y, KEY, attack=PGD_20, **settings)
        average.append(found)
        if radius < 0.2:
            step = {"input_step_size": 0.01, "weight_step_size": radius / 5}
            found = rfm.flatness.worst_case(
                apply_fn, params, x, y, KEY, threat=LINF, **step, **settings
            )
            worst.append(found)
    for found, name, label in ((average, ROBUST, "average case"), (worst, PLAIN, "worst case")):
        values = [f.value for f in found]
        left.errorbar(
            radii[: len(values)],
            values,
            [f.standard_error for f in found],
            color=style.colour(name),
            marker="o",
            label=label,
        )
    for radius, name in ((0.5, ROBUST), (0.003, PLAIN)):
        left.axvline(radius, color=style.colour(name), linewidth=0.8, linestyle=":")
    left.set(xscale="log", xlabel="radius (dotted: those of the study)", ylim=(-0.05, 3))
    left.set_title("rise of RLoss")
    left.legend()
    ball = rfm.perturb.RelativeBall(0.5)
    many = rfm.flatness.average_case(
        *(apply_fn, params, x, y, KEY),
        ball=ball,
        samples=200,
        fixed=True,
        attack=PGD_20,
        reference=reference,
    )
    ten = rfm.flatness.average_case(
        apply_fn, params, x, y, KEY, ball=ball, attack=PGD_20, reference=reference
    )
    right.hist(many.samples.mean(1) - many.reference, 24, color=style.colour("test-clean"))
    interval = rfm.flatness.interval(ten)
    right.axvspan(interval.low, interval.high, color=style.colour(PLAIN), alpha=0.2, lw=0)
    right.axvline(ten.value, color=style.colour(PLAIN))
    right.set(xlabel="rise of RLoss", ylabel="draws")
    right.set_title("200 draws at radius 0.5")
    right.grid(False, axis="x")
    return figure


def two_weights(params: Any, x: jax.Array) -> jax.Array:
    """Logits 0 and w2 max(w1 x, 0): two weights, each a layer."""
    f = params["w2"] * jax.nn.relu(params["w1"] * x.reshape(-1))
    return jnp.stack([jnp.zeros_like(f), f], axis=-1)


def relative_balls() -> Figure:
    """Balls of fixed size and relative balls at two points of one function."""
    x, y, fixed, radius = jnp.ones((1, 1, 1, 1)), jnp.ones(1, jnp.int32), 0.45, 0.4
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    axes = figure.add_subplot()
    w1, w2 = np.meshgrid(np.linspace(0, 6, 80), np.linspace(0, 2.6, 50))
    loss = np.log1p(np.exp(-w1 * w2))
    heights = axes.contourf(w1, w2, loss, np.linspace(0, 0.7, 15), cmap="Blues", vmax=1.1)
    figure.colorbar(heights, ax=axes, label="loss", ticks=np.arange(0, 0.8, 0.1), shrink=0.8)
    product, line = 2.0, np.linspace(0.5, 6, 100)
    axes.plot(line, product / line, "--", color=style.colour("ink"), linewidth=1)
    ball = rfm.perturb.RelativeBall(radius)
    around = np.linspace(0, 2 * np.pi, 2000)
    for factor in (1.0, 3.0):
        a, b = 1.4 * factor, product / 1.4 / factor
        params = {"w1": jnp.array([a]), "w2": jnp.array([b])}
        found = rfm.flatness.worst_case(
            *(two_weights, params, x, y, KEY), ball=ball, threat=None, weight_step_size=0.1
        )
        at = np.log1p(np.exp(-product))
        circle = (a + fixed * np.cos(around)) * np.maximum(b + fixed * np.sin(around), 0)
        rise = np.log1p(np.exp(-circle)).max() - at
        corner = a * (1 - radius), b * (1 - radius)
        size = 2 * radius * a, 2 * radius * b
        orange, ink = style.colour("train"), style.colour("ink")
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=orange, linewidth=1.8))
        axes.add_patch(Circle((a, b), fixed, fill=False, edgecolor=ink, linewidth=1.4))
        draws = jax.vmap(lambda key, p=params: ball.sample(key, p))(jax.random.split(KEY, 100))
        axes.scatter(a + draws["w1"], b + draws["w2"], s=2.5, color=orange, linewidth=0)
        axes.plot(a, b, "o", color=ink)
        text = f"rise in the circle {rise:.2f},\nin the rectangle {found.value:.2f}"
        place = (a + size[0] / 2 + 0.1, b + 0.3) if factor == 1 else (a - 0.6, b + fixed + 0.08)
        axes.annotate(text, place, va="bottom")
    axes.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(0, 6), ylim=(0, 2.6), aspect="equal")
    axes.grid(False)
    return figure


def early_stopping() -> Figure:
    """Robust overfitting on few digits, some of them labelled at random."""
    x, y, x_test, y_test = data()
    x, y, rng = x[:600], y[:600].copy(), np.random.default_rng(1)
    wrong = rng.uniform(size=len(y)) < 0.2
    y[wrong] = rng.integers(0, 10, wrong.sum())
    held_out, test = slice(400, 500), slice(0, 400)
    epochs, rows = [], []
    average, worst = [], []
    for epoch, params in train(x, y, PGD_7, 300, 15, hidden=256):
        logits_fn = rfm.types.bind(apply_fn, params)
        found = [
            PGD_20(logits_fn, images, labels, KEY)
            for images, labels in (
                (x, y),
                (x_test[test], y_test[test]),
                (x_test[held_out], y_test[held_out]),
            )
        ]
        epochs.append(epoch)
        rows.append([(float(f.loss.mean()), 100 * float(f.success.mean())) for f in found])
        arguments = (apply_fn, params, x_test[test], y_test[test], KEY)
        reference = np.asarray(found[1].loss, np.float64)
        average.append(
            rfm.flatness.average_case(
                *arguments,
                ball=rfm.perturb.RelativeBall(0.5),
                attack=PGD_20,
                reference=reference,
            )
        )
        worst.append(
            rfm.flatness.worst_case(
                *arguments,
                ball=rfm.perturb.RelativeBall(0.003),
                threat=LINF,
                input_step_size=0.01,
                restarts=2,
                reference=reference,
            )
        )
    losses, errors = np.moveaxis(np.array(rows), -1, 0)
    best = epochs[int(np.argmin(errors[:, 2]))]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, values, title in zip(panels, (losses, errors), ("RLoss", "RErr (%)"), strict=False):
        axes.plot(epochs, values[:, 0], color=style.colour("train"), label="training digits")
        axes.plot(epochs, values[:, 1], color=style.colour("test"), label="test digits")
        axes.set_title(title)
    panels[1].plot(epochs, errors[:, 2], color=style.colour("mark"), ls="--", label="held out")
    for found, name, label in ((average, "ink", "average case"), (worst, "muted", "worst case")):
        values, bars = [f.value for f in found], [f.standard_error for f in found]
        colour = style.colour(name)
        panels[2].errorbar(epochs, values, bars, color=colour, label=label, elinewidth=0.8)
    panels[2].set_title("flatness of RLoss")
    for axes in panels:
        style.epoch_axis(axes)
        axes.set_ylim(bottom=0)
        axes.axvline(best, color=style.colour("mark"), linewidth=0.8, linestyle=":")
    style.legend_below(figure)
    return figure


PICTURES = {
    "robust-loss": robust_loss,
    "landscapes": landscapes,
    "average-worst": average_worst,
    "relative-balls": relative_balls,
    "early-stopping": early_stopping,
}


def main(names: list[str]) -> None:
    """Draws the pictures that are named, or all."""
    for name in names or PICTURES:
        with style.styled():
            figure = PICTURES[name]()
        (IMAGES / f"{name}.svg").write_text(style.svg(figure))
        print(IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
