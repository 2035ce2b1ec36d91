"""The documentation: examples run, commands and names exist, and docstrings are converted."""

import doctest
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from _support import REPOSITORY, device_flags, require

from snnjax import _cli as cli

DOCS = REPOSITORY / "docs"
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if "results" not in path.relative_to(DOCS).parts[:-1]
)
FENCE = re.compile(r"^```(\w*)(?: title=\"(.+)\")?$")


def name_of(path):
    return path.relative_to(DOCS).with_suffix("").as_posix()


def blocks(path):
    """Language, title, number of the first line and text of each code block."""
    found, begin = [], None
    lines = path.read_text().split("\n")
    for k, line in enumerate(lines):
        if begin is None and (mark := FENCE.match(line)):
            begin = (mark[1], mark[2], k + 1)
        elif begin is not None and line == "```":
            found.append((*begin, "\n".join(lines[begin[2] : k]) + "\n"))
            begin = None
    assert begin is None, f"{path}: a block that begins at line {begin} has no end"
    return found


def commands(path):
    return [
        line
        for language, _, _, text in blocks(path)
        if language == "console"
        for line in text.splitlines()
    ]


MORE = (
    {"coming-from", "index"}
    | {f"explanation/{name}" for name in ("dale", "data-driven", "gradient", "theory")}
    | {
        f"how-to/{name}"
        for name in (
            "callbacks",
            "deep-networks",
            "diagnose",
            "online-learning",
            "own-data",
            "own-layer",
            "own-neuron",
            "resume",
            "speed",
            "sweeps",
        )
    }
    | {"how-to/train-on-traces-and-values"}
)
EXAMPLES = [
    pytest.param(p, marks=pytest.mark.more if name_of(p) in MORE else [], id=name_of(p))
    for p in PAGES
    if ">>> " in p.read_text()
]


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    lines = [""] * len(path.read_text().split("\n"))
    for language, _, begin, text in blocks(path):
        if language == "pycon":
            lines[begin : begin + text.count("\n")] = text.splitlines()
    example = doctest.DocTestParser().get_doctest(
        "\n".join(lines) + "\n", {"__name__": "__main__"}, name_of(path), str(path), 0
    )
    assert example.examples
    report: list[str] = []
    # long lines of output are wrapped in pages
    flags = doctest.FAIL_FAST | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(verbose=False, optionflags=flags).run(example, out=report.append)
    assert not report, "".join(report)


def test_every_piece_of_python_is_an_example_or_a_script_that_is_run():
    for path in PAGES:
        for language, title, line, text in blocks(path):
            where = f"{path}:{line}"
            assert language in ("", "pycon", "console", "python"), where
            assert (language == "pycon") == (">>> " in text), where
            assert language != "python" or title in SCRIPTS, where
            assert "+SKIP" not in text, where


SCRIPTS = ("hosts.py",)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_code_fits_beside_the_sidebars(path):
    for _, _, begin, text in blocks(path):
        long = [k for k, line in enumerate(text.split("\n"), begin + 1) if len(line) > 88]
        assert not long, f"{path}: lines {long} have more than 88 columns"


def test_code_of_notebooks_fits_beside_the_sidebars():
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        for k, cell in enumerate(json.loads(path.read_text())["cells"]):
            lines = "".join(cell["source"]).split("\n") if cell["cell_type"] == "code" else []
            assert max(map(len, lines), default=0) <= 88, f"{path.name}: cell {k}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_formulas_are_read_alike_by_the_site_and_by_github(path):
    r"""GitHub reads Markdown before the formula: `\\`, `\,` and `\{` lose their backslash, and `|` ends
    a cell of a table. A formula in a paragraph of its own stands between lines of `$$`.
    """
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    displays = re.findall(r"(?<=\n\n)\$\$\n(.+?)\n\$\$(?=\n)", text, re.DOTALL)
    inline = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    assert text.count("$$") == 2 * len(displays)
    assert inline.count("$") == 2 * len(re.findall(r"\$(?! )[^$]+(?<! )\$(?!\w)", inline))
    for formula in [*displays, *re.findall(r"\$([^$]+)\$", inline)]:
        assert not re.search(r"\\[^A-Za-z]|\||^[-+*=#>] |\n\n", formula, re.MULTILINE), formula


def script(title):
    (text,) = (text for path in PAGES for _, found, _, text in blocks(path) if found == title)
    return text


@pytest.mark.slow
def test_script_for_several_hosts(tmp_path):
    """Two processes with two devices each give the numbers of one device."""
    import socket

    (tmp_path / "hosts.py").write_text(script("hosts.py"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    def start(name, devices, hosts, index, address):
        (tmp_path / name).mkdir(exist_ok=True)
        env = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": device_flags(devices),
        }
        command = [sys.executable, str(tmp_path / "hosts.py"), address, str(hosts), str(index)]
        return subprocess.Popen(
            command, cwd=tmp_path / name, env=env, stderr=subprocess.PIPE, text=True
        )

    def finish(*processes):
        for process in processes:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors[-4000:]

    finish(*[start("two", 2, 2, k, f"127.0.0.1:{port}") for k in range(2)])
    finish(start("one", 1, 1, 0, f"127.0.0.1:{port}"))
    one, two = (np.load(tmp_path / name / "result.npz") for name in ("one", "two"))
    assert (int(one["devices"]), int(two["devices"])) == (1, 4)
    assert two["accuracy"].shape == (8,)
    # 30 samples per test set: rounding may change the result of one
    np.testing.assert_allclose(two["accuracy"], one["accuracy"], atol=1.5 / 30)


@pytest.mark.parametrize(
    "path",
    [p for p in [*PAGES, REPOSITORY / "README.md"] if "\nsnnjax " in p.read_text()],
    ids=lambda p: p.stem,
)
def test_commands_are_understood(path, tmp_path, monkeypatch):
    """Every `snnjax` line, with its placeholders, is parsed and checked; nothing is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "config.json").touch()  # a run or sweep to resume

    def understood(*args, **options):
        raise Understood

    for name in (
        "_hosts.join",
        "Experiment.datasets",
        "load_run",
        "run_sweep",
        "_sweep_folder.read",
        "_run.prepare",
        "_sweep_folder.planned",
        "_sweep.load_sweep",
    ):
        monkeypatch.setattr(f"snnjax.experiments.{name}", understood, raising=False)
    monkeypatch.setattr("snnjax.reproduce.reproduce", understood)
    monkeypatch.setattr("snnjax.reproduce._targets.reproduce_all", understood)
    lines = [line for line in commands_joined(path) if line.startswith("snnjax ")]
    assert lines
    for line in lines:
        with pytest.raises((Understood, SystemExit)) as stopped:
            cli.main(shlex.split(line, comments=True)[1:])
        assert stopped.type is Understood or stopped.value.code == 0, line


class Understood(BaseException):
    """A command has begun to load or compute something."""


def commands_joined(path):
    """Lines of console blocks; a line that ends in a backslash is joined with the next."""
    return "\n".join(commands(path)).replace("\\\n", " ").splitlines()


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "\ndocs: " in makefile
    for path in PAGES:
        for target in re.findall(r"\bmake (\w+)`", path.read_text()):
            assert f"\n{target}:" in makefile, f"{path}: make {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_names_of_the_package_exist(path):
    """`snnjax.a.b` in a page can be imported; the site links each of them."""
    for name in set(re.findall(r"`(snnjax(?:\.\w+)+)`", path.read_text())):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path}: {target}"


def anchor(heading):
    """The name that a site gives to the heading of a section."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-")


def test_links_to_sections_lead_to_a_heading():
    sources = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *PAGES]
    broken = []
    for path in sources:
        for target, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", path.read_text()):
            page = path.parent / target if target else path
            headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            if section not in map(anchor, headings):
                broken.append(f"{path.name}: {target}#{section}")
    assert not broken


def hook(name):
    spec = importlib.util.spec_from_file_location(
        f"docs_hook_{name}", DOCS / "_hooks" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notebooks_become_pages():
    site = hook("pages")
    cells = [
        {
            "cell_type": "markdown",
            "source": ["# A title\n", "\n", "[next](2_more.ipynb), ![p](../docs/overview.png)"],
        },
        {
            "cell_type": "code",
            "source": "print(1)",
            "outputs": [
                {"output_type": "stream", "text": ["0 %\r100 %\n", "\x1b[1mbold\x1b[0m\n"]}
            ],
        },
        {
            "cell_type": "code",
            "source": "figure",
            "outputs": [
                {
                    "output_type": "display_data",
                    "data": {"image/png": "iVBORw==", "text/plain": ["<Figure>"]},
                }
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    text, images = site.notebook_page({"cells": cells}, "1_first")
    assert images == {"1_first_0.png": b"\x89PNG"}
    assert text.startswith(
        "# A title\n\n[next](2_more.md), ![p](../overview.png)\n\n```python\nprint(1)\n```\n\n```text\n100 %\nbold\n```\n"
    )
    badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/x.ipynb)"
    assert site.relinked(badge) == "[Open in Colab](https://colab.research.google.com/x.ipynb)"
    assert "![output](1_first_0.png)\n\n[This page as a notebook](1_first.ipynb)\n" in text
    cards = site.cards()
    assert len(re.findall(r"\)\*\* \(.*minutes?\)\n", cards)) == len(site.notebooks())
    assert "](1_fluctuation_driven_0.png)](1_fluctuation_driven.md)" in cards
    stems = [p.stem for p in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))]
    assert [page for _, page in site.tutorials()] == [f"tutorials/{stem}.md" for stem in stems]
    # the list for readers of the repository
    listed = re.findall(
        r"^- \[(.+)\]\(../../notebooks/(.+)\.ipynb\)$",
        (DOCS / "tutorials" / "index.md").read_text(),
        re.MULTILINE,
    )
    titles = [title for title, _ in site.tutorials()]
    assert listed == [*zip(titles, stems, strict=True)]


def test_reports_are_listed_where_there_are_any(tmp_path, monkeypatch):
    site = hook("pages")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "RESULTS", tmp_path / "docs" / "results")
    assert site.reports() == []
    assert site.listing("results.md", site.reports()) == "There are none in this copy."
    for folder, title in (("figure3", "Shallow"), (".", "All")):
        (site.RESULTS / folder).mkdir(parents=True, exist_ok=True)
        (site.RESULTS / folder / "report.md").write_text(f"# {title}\n")
    assert (
        site.listing("results.md", site.reports())
        == "- [All](results/report.md)\n- [Shallow](results/figure3/report.md)"
    )


def test_every_public_module_has_a_page():
    import snnjax

    site = hook("pages")
    assert sorted(name for name, _ in site.modules()) == [f"snnjax.{m}" for m in snnjax._SUBMODULES]
    assert (
        "| [`snnjax.psp`](snnjax.psp.md) | The post-synaptic potential of" in site.module_tables()
    )
    listed = re.findall(r"\[(\w+)\]\(../../snnjax", (DOCS / "reference" / "index.md").read_text())
    assert [f"snnjax.{name}" for name in listed] == [name for name, _ in site.modules()]
    for name, _ in site.modules():
        shown = re.findall(r"^::: (\S+)$", site.module_page(name), re.MULTILINE)
        listed = importlib.import_module(name).__all__
        assert shown == [name, *(f"{name}.{public}" for public in listed)]
    assert (
        site.with_links("`snnjax.theory`\n```\n`snnjax.theory`\n```\n")
        == "[`snnjax.theory`][snnjax.theory]\n```\n`snnjax.theory`\n```\n"
    )


def test_the_reference_shows_every_option_of_an_experiment():
    from snnjax.experiments import Experiment
    from snnjax.experiments._options import options_of
    from snnjax.experiments._tasks import TASKS

    rows = [line for line in "\n".join(hook("pages").options()).splitlines() if line[:3] == "| `"]
    assert "| `hidden` | 128 | Neurons of each hidden layer; with Dale" in "\n".join(rows)
    shown = {re.findall(r"`(\w+)`", row)[0] for row in rows}
    for task in TASKS:
        own = {option.name for option in options_of(Experiment.from_options(task.name))}
        assert own - shown == {"task"}


def test_examples_in_the_hooks():
    require("griffe")
    assert [doctest.testmod(hook(name)).failed for name in ("pages", "docstrings")] == [0, 0]


def test_docstrings_get_links_examples_and_annotations():
    require("griffe")
    normalized = hook("docstrings").normalized
    text = normalized(
        "A layer, see `snnjax.nn`.\n\n    z = x @ W, `snnjax.psp`\n\nArgs:\n    a: one, see `snnjax.psp`.\n        More.\n    b: two.\n\n"
        "Returns:\n    Two: and three.\n\nRaises:\n    ValueError: bad.\n\n>>> 1 + 1  # doctest: +ELLIPSIS\n2",
        "int",
    )
    assert text == (
        "A layer, see [`snnjax.nn`][snnjax.nn].\n\n    z = x @ W, `snnjax.psp`\n\nArgs:\n    a: one, see [`snnjax.psp`][snnjax.psp].\n        More.\n    b: two.\n\n"
        "Returns:\n    int: Two: and three.\n\nRaises:\n    ValueError: bad.\n\n```pycon\n>>> 1 + 1\n2\n```"
    )


def test_classes_in_the_reference_have_their_constructor_and_their_call():
    griffe = pytest.importorskip("griffe")
    loaded = griffe.load(
        "snnjax", search_paths=[str(REPOSITORY)], extensions=griffe.load_extensions(hook("docstrings").Docstrings)
    )  # fmt: skip
    assert [p.name for p in loaded["datasets._device.DeviceArrays"].parameters] == ["self", "x", "labels", "dt"]  # fmt: skip
    call = loaded["nn._init.FluctuationDriven.__call__"]
    assert "Returns:" in call.docstring.value  # that of `LayerInit`
    assert min(m.lineno for m in loaded["nn._network.Sequential"].functions.values()) == loaded["nn._network.Sequential.__call__"].lineno  # fmt: skip
