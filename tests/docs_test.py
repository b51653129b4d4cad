"""The documentation's Python runs as it stands, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (DOCS / "any-model.md").read_text(), re.M | re.S)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("code", BLOCKS, ids=["linen", "nnx", "equinox"])
def test_any_model(code):
    namespace: dict = {}
    exec(compile(code, str(DOCS / "any-model.md"), "exec"), namespace)
    assert (~namespace["aa"].robust).any()
    # The normalisation was left alone, and nothing else.
    ball, params = namespace["ball"], namespace["params"]
    jax = namespace["jax"]
    sample = ball.sample(jax.random.key(0), params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(sample)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        moves = "norm" not in name.lower() and "bias" not in name
        assert leaf.any() == moves or "bias" in name, name


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_point_to_files(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
