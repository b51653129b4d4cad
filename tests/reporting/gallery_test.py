import numpy as np
import pytest

from rfm.reporting import gallery, style
from rfm.reporting.run import read_run


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (9, 7, 2)])
def test_adversarial_examples_show_the_pixels_of_the_record(files, shape):
    files.records(files.evaluation("test", shape))
    (record,) = read_run(files.workdir).records
    examples = record.adversarial
    figure = gallery.adversarial_examples(examples)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    rows = np.stack(shown).reshape(3, 8, *shown[0].shape)
    factor = gallery.amplification(examples)
    assert factor == 15  # 15 * 8/255 is just below half of the range
    clean, adversarial = examples.images / 255, examples.adversarial_images
    difference = 0.5 + factor * (adversarial - clean)
    for row, images in zip(rows, (clean, adversarial, difference), strict=True):
        if shape[-1] != 3:
            images = images.mean(axis=-1)
        np.testing.assert_allclose(row, images, atol=1e-5)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "3 → 3"
    assert titles[8:10] == ["3 → 5", "8 → 8"]


def test_an_attack_that_changes_nothing_can_be_shown(files):
    entry = files.evaluation("test")
    images = np.array(entry["adversarial"]["images"])
    entry["adversarial"]["adversarial_images"] = (images / 255).tolist()
    files.records(entry)
    (record,) = read_run(files.workdir).records
    assert gallery.amplification(record.adversarial) == 1
    assert style.png(gallery.adversarial_examples(record.adversarial))


def test_without_examples_there_is_no_figure():
    assert gallery.adversarial_examples(None) is None
