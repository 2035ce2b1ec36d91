"""Run notebooks from top to bottom and write them back with their outputs.

    make notebooks
    python notebooks/execute.py [NAME.ipynb ...]

Notebooks 3 and 6 read real recordings from SNNJAX_DATA, if it is set. Details that differ from run
to run and carry no information (times, ids, the machine's Python) are not written.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def execute(
    notebook: nbformat.NotebookNode, *, small: bool = False, timeout: int = 600
) -> nbformat.NotebookNode:
    """Return a copy of `notebook` with the outputs of a new kernel.

    The kernel runs in an empty folder. Nothing else in the copy differs.

    Args:
        notebook: The notebook.
        small: Whether to use the small settings of tests (SNNJAX_SMALL).
        timeout: Limit for each cell, s.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed; the error has its traceback.
    """
    fresh = copy.deepcopy(notebook)
    environment = os.environ | {"SNNJAX_SMALL": "1" if small else ""}
    for name in (
        "SNNJAX_DATA",
        "PYTHONPATH",
    ):  # relative to the present folder, not to the kernel's
        if environment.get(name):
            environment[name] = os.pathsep.join(
                str(Path(part).resolve()) for part in environment[name].split(os.pathsep)
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
    return clean(fresh)


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
    for path in [FOLDER / Path(name).name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        begin = time.perf_counter()
        nbformat.write(execute(nbformat.read(path, as_version=4)), path)
        print(
            f"{path.name}: {time.perf_counter() - begin:.0f} s, {path.stat().st_size / 1e3:.0f} kB",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
