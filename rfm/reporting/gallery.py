"""Adversarial examples to look at.

Numbers say how often an attack succeeds; pictures say what it does. A perturbation of
8/255 is hardly visible, so the difference is shown amplified around grey, by a factor
that the figure states.
"""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from rfm.reporting import style
from rfm.reporting.records import AdversarialExamples


def amplification(examples: AdversarialExamples) -> int:
    """The factor that makes the largest difference half of the range of pixels."""
    largest = np.abs(np.nan_to_num(_difference(examples))).max(initial=0.0)
    return max(1, int(0.5 / largest + 1e-3)) if largest > 0 else 1


def _difference(examples: AdversarialExamples) -> Float[np.ndarray, "n h w c"]:
    return examples.adversarial_images - examples.images / np.float32(255)


@style.styled(**{"axes.grid": False, "axes.titlelocation": "center"})
def adversarial_examples(examples: AdversarialExamples | None) -> Figure | None:
    """Clean images, adversarial images, and the difference amplified around grey.

    Titles read "label → prediction", bold where the prediction is wrong. Images of one
    channel are grey; of more than three, the mean over channels is shown.
    """
    if examples is None or len(examples.labels) == 0:
        return None
    factor = amplification(examples)
    rows = (
        ("clean", examples.images / np.float32(255), examples.clean_predictions),
        ("adversarial", examples.adversarial_images, examples.predictions),
        (f"difference\n× {factor}", 0.5 + factor * _difference(examples), None),
    )
    columns = len(examples.labels)
    figure = Figure(figsize=(1.15 * columns + 0.9, 4.2), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images, predictions), line in zip(rows, grid, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        for index, (axes, image) in enumerate(zip(line, images, strict=True)):
            pixels = np.clip(np.nan_to_num(image), 0, 1)
            if pixels.shape[-1] != 3:
                pixels = pixels.mean(axis=-1)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="none")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if predictions is not None:
                label, prediction = examples.labels[index], predictions[index]
                names = (examples.name(label), examples.name(prediction))
                axes.set_title(
                    (" → " if len("".join(names)) < 10 else "\n→ ").join(names),
                    fontsize=8.5,
                    fontweight="normal" if label == prediction else "bold",
                    color=style.colour("muted" if label == prediction else "ink"),
                    pad=4,
                )
    return figure
