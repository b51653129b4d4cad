"""What the documentation says is so: its Python runs, its commands parse, its links lead somewhere.

The site itself is built by .ci/run, with warnings as errors.
"""

import doctest
import importlib
import importlib.util
import inspect
import re
import runpy
import shlex
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from rfm.configs import base

from rfm.cli import parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EVERYWHERE = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
NAMES = [path.relative_to(ROOT).as_posix() for path in EVERYWHERE]


def code(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)


def programs():
    """The Python of each page; a block that begins with ``import`` begins a program."""
    for path in PAGES:
        found: list[list[str]] = []
        for block in code(path, "python"):
            if block.startswith("import "):
                found.append([])
            found[-1].append(block)
        for number, blocks in enumerate(found, start=1):
            yield pytest.param(path, blocks, id=f"{path.stem}-{number}")


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("path", "blocks"), list(programs()))
def test_python_runs(path, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), namespace)
    if path.stem == "any-model":
        only_what_is_no_normalisation_moves(namespace)


def only_what_is_no_normalisation_moves(namespace):
    assert (~namespace["aa"].robust).any()
    ball, params, jax = namespace["ball"], namespace["params"], namespace["jax"]
    sample = ball.sample(jax.random.key(0), params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(sample)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        moves = "norm" not in name.lower() and "bias" not in name
        assert leaf.any() == moves or "bias" in name, name


def test_bringing_a_model_takes_less_than_20_lines():
    blocks = [b for b in code(DOCS / "any-model.md", "python") if "autoattack" in b]
    assert len(blocks) == 4
    for block in blocks:
        assert "average_case" in block and block.startswith("import ")
        assert len([line for line in block.splitlines() if line.strip()]) < 20
        assert max(map(len, block.splitlines())) <= 100


def commands():
    """Every rfm command in a block of code."""
    for path in EVERYWHERE:
        text = path.read_text().replace("\\\n", " ")
        fenced = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).splitlines()
        indented = [line for line in text.splitlines() if line.startswith("    rfm ")]
        for line in [*fenced, *indented]:
            for command in line.split("&&"):
                if re.match(r"\s*(\.venv/bin/)?rfm ", command):
                    yield pytest.param(command.strip(), id=f"{path.stem}: {command.strip()[:50]}")


@pytest.mark.parametrize("command", list(commands()))
def test_rfm_takes_the_command(command):
    known = parser.parse(shlex.split(command, comments=True)[1:])
    for override in known.overrides:
        assert override.removeprefix("--config.").partition("=")[0] in fields(), override


def fields(config: ConfigDict | None = None, prefix: str = "") -> set[str]:
    """Names of all fields and sections of a config."""
    found: set[str] = set()
    for key, value in (base.get_config() if config is None else config).items():
        found.add(f"{prefix}{key}")
        if isinstance(value, ConfigDict):
            found |= fields(value, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("path", EVERYWHERE, ids=NAMES)
def test_config_fields_exist(path):
    text = path.read_text()
    named = re.findall(r"(?<![\w/])config\.([a-z_]+(?:\.[a-z_]+)*)(?!\w)", text)
    sections = {name.partition(".")[0] for name in fields() if "." in name}
    # `data.crop` in a span of code; `data.load` is a function of rfm.data.
    for section, name in re.findall(r"`(\w+)\.([a-z_]+)`", text):
        if section in sections - {"data", "model"}:
            named.append(f"{section}.{name}")
    for name in set(named) - {"json", "update", "py"}:
        assert name in fields(), f"config.{name}"


OTHERS = {
    *("--no-deps", "--kills", "--epochs", "--folder", "--help", "--version"),
    *("--spot", "--reserved"),
}
"""Flags of pip, of scripts and of gcloud."""


@pytest.mark.parametrize("path", EVERYWHERE, ids=NAMES)
def test_flags_exist(path):
    _, verbs = parser._make_parsers()
    usage = " ".join(verb.format_usage() for verb in verbs.values())
    known = set(re.findall(r"--[a-z][\w-]*", usage)) | OTHERS
    for span in re.findall(r"`([^`\n]+)`", prose(path)):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*(?![\w.])", span):
            assert flag in known, flag


@pytest.mark.parametrize("path", EVERYWHERE, ids=NAMES)
def test_names_of_rfm_exist(path):
    for name in set(re.findall(r"`(rfm(?:\.\w+)+)[`(]", path.read_text())):
        assert resolves(name), name


def resolves(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("path", EVERYWHERE, ids=NAMES)
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", prose(path)):
        file = (path.parent / target) if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """Those that GitHub and MyST give to headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_pictures_are_shown_described_and_small():
    shown = re.findall(r"!\[([^]]*)\]\(images/([^)]+)\)", "".join(p.read_text() for p in PAGES))
    assert all(text for text, _ in shown)
    assert {name for _, name in shown} == {path.name for path in (DOCS / "images").iterdir()}
    assert all(path.stat().st_size < 200_000 for path in (DOCS / "images").iterdir())


def site() -> dict:
    return runpy.run_path(str(DOCS / "conf.py"))


def extension(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"_extensions/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation():
    named = [page for pages in site()["NAVIGATION"].values() for page in pages]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES}
    assert len(named) == len(set(named))
    assert {*named, "index"} == pages
    contents = extension("pages").contents(site()["NAVIGATION"], DOCS)
    assert set(re.findall(r"^[\w/-]+$", contents, re.M)) == pages - {"index"}


def test_pages_from_elsewhere_keep_their_links():
    pages, elsewhere = extension("pages"), site()["ELSEWHERE"]
    assert {file for file in elsewhere.values() if not (ROOT / file).exists()} == set()
    text = "[a](local.sh) [b](../docs/scale.md#memory) [c](https://d.e) [f](../CHANGELOG.md)"
    linked = pages.with_links(text, ROOT / "launch/README.md", DOCS, elsewhere, "launching")
    assert linked == "[a](../launch/local.sh) [b](scale.md#memory) [c](https://d.e) [f](changes.md)"


def test_reference_has_every_public_name_and_these_are_described():
    pages, api = extension("pages"), site()["API"]
    text = "\n".join(pages.api_page(modules) for modules in api.values())
    modules = set(re.findall(r"automodule:: (\S+)", text))
    entries = set(re.findall(r"auto\w+:: (\S+)", text)) - modules
    data = re.findall(r"py:data:: (\w+)\n   :module: (\S+)", text)
    entries |= {f"{module}.{name}" for name, module in data}
    for package in ("attacks", "flatness", "losses", "threat", "perturb", "data", "reporting"):
        module = importlib.import_module(f"rfm.{package}")
        assert {f"rfm.{package}.{name}" for name in pages.public_names(module)} <= entries
    assert {"rfm.models.create", "rfm.models.exported.save", "rfm.types.Images"} <= entries
    assert not {name for name in entries if "._" in name or name.endswith(("jax", "Callable"))}
    for name in entries:
        module, _, member = name.rpartition(".")
        found = getattr(importlib.import_module(module), member)
        if inspect.isfunction(found) or (inspect.isclass(found) and "jaxtyping" not in repr(found)):
            assert found.__doc__, name


def examples():
    for path in sorted((ROOT / "rfm").rglob("*.py")):
        if ">>> " in path.read_text():
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", list(examples()))
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed


def test_functions_that_people_import_have_an_example():
    wanted = """
    losses.cross_entropy threat.linf perturb.RelativeBall attacks.pgd attacks.autoattack
    flatness.average_case flatness.worst_case flatness.landscape flatness.extreme_eigenvalues
    flatness.reference models.create models.apply_fn
    """
    import rfm.models  # noqa: F401

    for name in wanted.split():
        module, member = name.split(".")
        found = getattr(importlib.import_module(f"rfm.{module}"), member)
        assert ">>> " in found.__doc__, name
