"""Run notebooks from top to bottom and write them back with their outputs.

    make notebooks
    python notebooks/execute.py [NAME.ipynb ...]

Notebooks 3, 6, 8 and 9 read real recordings from SNNJAX_DATA, if it is set. Details that differ
from run to run and carry no information (times, ids, the machine's Python) are not written.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def execute(
    notebook: nbformat.NotebookNode,
    *,
    settings: Mapping[str, object] | None = None,
    timeout: int = 1800,
) -> nbformat.NotebookNode:
    """Return a copy of `notebook` with the outputs of a new kernel.

    The kernel runs in an empty folder. Nothing else in the copy differs.

    Args:
        notebook: The notebook.
        settings: Other values for constants of the notebook, by their names, as tests use them: a
            line `NAME = ...` gets this value while it runs. The source in the copy stays.
        timeout: Limit for each cell, s.

    Raises:
        ValueError: No line of the notebook sets such a constant.
        nbclient.exceptions.CellExecutionError: A cell failed; the error has its traceback.
    """
    fresh = copy.deepcopy(notebook)
    for name, value in (settings or {}).items():
        _set_constant(fresh, name, value)
    # without XLA's alarm on a busy machine that a compilation is slow
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(os.environ)
    # relative to the present folder, not to the kernel's
    for name in ("SNNJAX_DATA", "PYTHONPATH"):
        if environment.get(name):
            environment[name] = os.pathsep.join(
                str(Path(part).resolve())
                for part in environment[name].split(os.pathsep)
            )
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            fresh,
            timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
    for cell, given in zip(fresh.cells, notebook.cells, strict=True):
        cell.source = given.source
    return clean(fresh)


def _set_constant(notebook: nbformat.NotebookNode, name: str, value: object) -> None:
    """Replace the line that sets a constant."""
    line = re.compile(rf"^{name} = .*$", re.MULTILINE)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [cell for cell in cells if line.search(cell.source)]
    if not found:
        raise ValueError(f"settings must name constants of the notebook, got {name!r}")
    for cell in found:
        cell.source = line.sub(lambda _: f"{name} = {value!r}", cell.source)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy without details that differ from run to run and carry no information.

    Parts of an output stream are joined.

    Args:
        notebook: The notebook.
    """
    out = copy.deepcopy(notebook)
    out.metadata = nbformat.from_dict(METADATA)
    for k, cell in enumerate(out.cells):
        cell.id, cell.metadata = f"cell-{k:02d}", nbformat.from_dict({})
        joined: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            last = joined[-1] if joined else None
            if (
                last is not None
                and output.output_type == "stream"
                and (last.output_type, last.get("name")) == ("stream", output.name)
            ):
                last.text += output.text
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined
    return out


def main(names: list[str]) -> None:
    """Execute the given notebooks, or all.

    Args:
        names: Names of notebooks.
    """
    for path in [FOLDER / Path(name).name for name in names] or sorted(
        FOLDER.glob("*.ipynb")
    ):
        begin = time.perf_counter()
        nbformat.write(execute(nbformat.read(path, as_version=4)), path)
        print(
            f"{path.name}: {time.perf_counter() - begin:.0f} s, {path.stat().st_size / 1e3:.0f} kB",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
