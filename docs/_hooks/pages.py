"""MkDocs hook: pages from the notebooks, the reports and the package.

notebooks/NAME.ipynb        tutorials/NAME.md, cells and outputs as they were committed; none is run
docs/results/**/report.md   listed, where there are any
snnjax's public modules     reference/MODULE.md, one page per module, with the names in its `__all__`

It also adds them to the navigation, links names in code to the reference, and puts guides before
the reference in the results of the search.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, NOTEBOOKS, RESULTS = ROOT / "snnjax", ROOT / "notebooks", ROOT / "docs" / "results"

# of the reference: what most users need comes first
MODULES = {
    "Networks and training": (
        *("nn", "training", "datasets", "calibration", "diagnostics", "dynamics", "losses"),
        *("optimizers", "regularizers", "models"),
    ),
    "Weights, theory and surrogates": (
        *("initializers", "theory", "gradient_theory", "surrogate", "psp", "dale"),
    ),
    "Experiments, figures and exchange": (
        *("experiments", "exchange", "plotting", "reproduce", "runtime"),
    ),
}
# factors of the scores in the search, by folder: who searches a task finds the guide first
BOOST = {"how-to": 4.0, "tutorials": 2.0, "explanation": 2.0, "reference": 0.5, "results": 0.5}

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_NAME = re.compile(r"(?<![\[`])`(snnjax(?:\.[A-Za-z]\w*)+)`(?!`)")


# pages


def on_config(config: Any) -> Any:
    """Fill the sections whose pages are made or found."""
    more = {
        "tutorials/index.md": tutorials(),
        "reference/index.md": modules(),
        "results.md": reports(),
    }
    for entry in config.nav:
        for section, page in entry.items():
            if isinstance(page, str) and more.get(page):
                entry[section] = [page, *({title: path} for title, path in more[page])]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for path in notebooks():
        text, images = notebook_page(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        files.append(File.generated(config, f"tutorials/{path.name}", abs_src_path=str(path)))
        for name, content in images.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    for module, page in modules():
        files.append(File.generated(config, page, content=module_page(module)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in lists of pages, and link names of the package to the reference."""
    source = page.file.src_uri
    page.meta.setdefault("search", {"boost": BOOST.get(source.partition("/")[0], 1.0)})
    if source == "tutorials/index.md":
        markdown = filled(markdown, cards())
    elif source == "reference/index.md":
        markdown = filled(markdown, module_tables())
    elif source == "results.md":
        markdown = markdown.replace("<!-- pages -->", listing(source, reports()))
    return (
        markdown
        if source.startswith("tutorials/") and source != "tutorials/index.md"
        else with_links(markdown)
    )


def filled(markdown: str, content: str) -> str:
    """A page with `content` in place of what the repository shows there.

    >>> filled("before <!-- pages --> links to files <!-- end --> after", "pages")
    'before pages after'
    """
    before, rest = markdown.split("<!-- pages -->")
    return before + content + rest.split("<!-- end -->")[1]


def listing(source: str, pages: list[tuple[str, str]]) -> str:
    """Links from the page `source` to pages."""
    folder = Path(source).parent
    lines = [f"- [{title}]({Path(path).relative_to(folder).as_posix()})" for title, path in pages]
    return "\n".join(lines) or "There are none in this copy."


def with_links(markdown: str) -> str:
    """Names like `snnjax.theory` outside code blocks and headings as links to where the reference has them; one that it has not is a warning."""
    lines, fence = [], ""
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(`{3,})", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence and not line.startswith("#"):
            line = _NAME.sub(r"[`\1`][\1]", line)
        lines.append(line)
    return "\n".join(lines)


def heading(markdown: str, otherwise: str) -> str:
    """The text of the first heading."""
    found = re.search(r"^# +(.+)$", markdown, re.MULTILINE)
    return found[1].strip() if found else otherwise


# reports


def reports() -> list[tuple[str, str]]:
    """Title and page of every report, that over all first."""
    pages = sorted(
        RESULTS.glob("**/report.md"), key=lambda path: (len(path.relative_to(RESULTS).parts), path)
    )
    return [
        (heading(path.read_text(), path.parent.name), path.relative_to(ROOT / "docs").as_posix())
        for path in pages
    ]


# notebooks


def notebooks() -> list[Path]:
    """All of them, in order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def tutorials() -> list[tuple[str, str]]:
    """Title and page of every notebook."""
    pages = []
    for path in notebooks():
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
        pages.append((heading(text, path.stem), f"tutorials/{path.stem}.md"))
    return pages


def cards() -> str:
    """Picture, title, duration and first sentence of every notebook."""
    parts = ['<div class="grid cards" markdown>']
    for path in notebooks():
        notebook = json.loads(path.read_text())
        title, sentence, duration = opening(notebook)
        _, images = notebook_page(notebook, path.stem)
        picture = f"[![First figure of this notebook]({min(images)})]({path.stem}.md)"
        parts.append(f"-   {picture}\n\n    **[{title}]({path.stem}.md)** {duration}")
        parts.append(f"    {sentence}")
    return "\n\n".join([*parts, "</div>"])


def opening(notebook: dict[str, Any]) -> tuple[str, str, str]:
    """Title, first sentence and duration of a notebook, from its first cell.

    >>> cell = "# A title\\n\\nWhat it shows. More. It takes two minutes on two\\ncores."
    >>> opening({"cells": [{"cell_type": "markdown", "source": cell}]})
    ('A title', 'What it shows.', '(two minutes)')
    """
    text = "".join(notebook["cells"][0]["source"])
    other = ("#", "[!", "![", "To run this notebook")
    prose = [part for part in text.split("\n\n") if not part.startswith(other)]
    words = " ".join(" ".join(prose).split())
    duration = re.search(r"takes (?:about )?([^.]+?) on two cores", words)
    sentence = re.split(r"(?<=[.?!]) ", words)[0]
    return heading(text, ""), sentence, f"({duration[1]})" if duration else ""


def notebook_page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(relinked(source))
        elif cell["cell_type"] == "code" and source:
            parts.append(fenced("python", source))
            for output in cell["outputs"]:
                parts += shown(output, stem, images)
    return "\n\n".join([*parts, f"[This page as a notebook]({stem}.ipynb)"]) + "\n", images


def relinked(markdown: str) -> str:
    """Links as they are from the site: to pages instead of notebooks, to docs/ without it, and words instead of a badge, which would be fetched."""
    markdown = re.sub(r"\[!\[([^]]*)\]\(https://[^)]*badge[^)]*\)\]", r"[\1]", markdown)
    markdown = re.sub(r"\]\((?:\./)?(\w+)\.ipynb(#[^)]*)?\)", r"](\1.md\2)", markdown)
    return re.sub(r"\]\(\.\./docs/([^)]+)\)", r"](../\1)", markdown)


def shown(output: dict[str, Any], stem: str, images: dict[str, bytes]) -> Iterator[str]:
    """An output of a cell as Markdown; pictures are added to `images`."""
    data = output.get("data", {})
    if output["output_type"] == "stream":
        text = "".join(output["text"])
        # of a line that was written over, what stood there last
        yield fenced(
            "text",
            "\n".join(line.rstrip("\r").split("\r")[-1] for line in text.rstrip().split("\n")),
        )
    elif output["output_type"] == "error":
        yield fenced("text", "\n".join(output["traceback"]))
    elif "image/png" in data:
        name = f"{stem}_{len(images)}.png"
        images[name] = base64.b64decode("".join(data["image/png"]))
        yield f"![output]({name})"
    elif "text/markdown" in data:
        yield "".join(data["text/markdown"])
    elif "text/plain" in data:
        yield fenced("text", "".join(data["text/plain"]).rstrip())


def fenced(language: str, text: str) -> str:
    """A code block, its fence longer than any within."""
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text)), 3)
    return f"{ticks}{language}\n{_ANSI.sub('', text)}\n{ticks}"


# reference


def modules() -> list[tuple[str, str]]:
    """Every public module of the package and its page, in the order of `MODULES`."""
    names = itertools.chain.from_iterable(MODULES.values())
    return [(f"snnjax.{name}", f"reference/snnjax.{name}.md") for name in names]


def module_tables() -> str:
    """What every module has, and the names in it that are used most, group by group."""
    parts = []
    for title, names in MODULES.items():
        rows = ["| module | contents | used most |", "|---|---|---|"]
        for name in (f"snnjax.{name}" for name in names):
            first = " ".join((ast.get_docstring(parsed(name)) or "").split("\n\n")[0].split())
            used = ", ".join(f"[`{public}`][{name}.{public}]" for public in exports(name)[:5])
            rows.append(f"| [`{name}`]({name}.md) | {first} | {used} |")
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts)


def module_page(module: str) -> str:
    """Directives for a module and the names in its `__all__`, in their order there."""
    head = f"::: {module}\n    options: {{heading_level: 1, members: false}}"
    more = options() if module == "snnjax.experiments" else []
    return "\n\n".join([head, *(f"::: {module}.{name}" for name in exports(module)), *more]) + "\n"


def options() -> list[str]:
    """The options of an experiment: a section for every part, and a table for every class."""
    from snnjax.experiments import Experiment  # this does not load JAX

    intro = (
        "Each option is an argument of `Experiment.from_options` and `Experiment.replace`, a flag "
        "of the command line (`sigma_u`: `--sigma-u`), and a name that a `Sweep` can vary. Tasks "
        "have other defaults for some options; `--help` shows them."
    )
    return ["## Options", intro, *_part("experiment", Experiment, set())]


def _part(title: str, cls: type, seen: set[type]) -> Iterator[str]:
    """The section of a part, and those of the parts in it."""
    from snnjax.experiments._options import kinds_of

    yield f"### {title}"
    yield from _tables([cls], seen)
    for field in dataclasses.fields(cls):
        kind = kinds_of(cls)[field.name][0]
        if choices := field.metadata.get("choices", ()):
            yield f"### {field.metadata['flag']}"
            yield from _tables(choices, seen)
        elif dataclasses.is_dataclass(kind):
            yield from _part(field.name, kind, seen)


def _tables(classes: Sequence[type], seen: set[type]) -> Iterator[str]:
    """What every class is, and its own options; base classes come first."""
    from snnjax._flags import texts_of

    for cls in dict.fromkeys(base for each in classes for base in reversed(each.__mro__)):
        if cls in seen or not dataclasses.is_dataclass(cls):
            continue
        seen.add(cls)
        own = [f for f in dataclasses.fields(cls) if f.name in inspect.get_annotations(cls)]
        texts = texts_of(cls)
        rows = [_row(cls, field, texts[field.name]) for field in own if field.name in texts]
        name = f"`{cls.name}`: " if vars(cls).get("name") else ""
        if rows or name:
            yield name + inspect.getdoc(cls).partition("\n\nAttributes:")[0]
        if rows:
            yield "\n".join(["| option | default | |", "|---|---|---|", *rows])


def _row(cls: type, field: dataclasses.Field[Any], text: str) -> str:
    """An option of a class as a row of a table."""
    from snnjax._flags import shown
    from snnjax.experiments._options import kinds_of

    name, default = field.metadata.get("flag", field.name), field.default
    choices = field.metadata.get("choices", ())
    literals = [word for kind in kinds_of(cls)[field.name] for word in get_args(kind)]
    words = [c.name for c in choices] or [word for word in literals if isinstance(word, str)]
    if words:
        text += " One of " + ", ".join(f"`{word}`" for word in words) + "."
    if choices:
        default = getattr(default, "name", dataclasses.MISSING)
    value = "" if default is dataclasses.MISSING else shown(default)
    return f"| `{name}` | {value} | {text.replace('|', chr(92) + '|')} |"


def exports(module: str) -> list[str]:
    """The names in a module's `__all__`. Nothing is imported.

    >>> exports("snnjax.psp")
    ['Kernel']
    """
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{module} has no __all__: list the names that its page shows")


def parsed(module: str) -> ast.Module:
    """The source of a module. Nothing is imported."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())
