"""Every notebook runs, its committed outputs are from such a run, and its claims are true."""

import importlib.util
import os
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
COLAB = "https://colab.research.google.com/github/snnjax/snnjax/blob/main/notebooks/"

# For each notebook: a sentence of its last code cell, and a condition on its numbers, which must be
# true with small settings too.
CLAIMS = {
    "1_fluctuation_driven": (
        r"within ([\d.]+) % of its target(?s:.*)from ([\d.]+) at xi 1 to ([\d.]+) at xi 3",
        lambda error, few, many: error < 5 and few > many,
    ),
    "2_first_network": (
        r"training: ([\d.]+) Hz at sigma_u = 1, ([\d.]+) Hz(?s:.*)accuracy: "
        r"([\d.]+) % started at sigma_u = 1, ([\d.]+) % started at",
        lambda spiking, silent, right, wrong: spiking > 1 > silent and right > max(wrong, 30),
    ),
    "3_spoken_digits": (
        r"Test accuracy: ([\d.]+) % recurrent, ([\d.]+) % feed-forward(?s:.*)"
        r"Kaiming: [\d.]+ %, last layer at ([\d.]+) Hz(?s:.*)calibrated: [\d.]+ %, .* at ([\d.]+) Hz",
        lambda rec, ff, kaiming, calibrated: min(rec, ff) > 15 and kaiming < 0.1 < 1 < calibrated,
    ),
    "4_deep_networks": (
        r"Last layer: ([\d.]+) Hz from Kaiming weights, sigma_u ([\d.]+) by the formula(?s:.*)"
        r"sigma_u within ([\d.]+) % of 1 in every layer, backward gain ([\d.]+) to ([\d.]+)\.",
        lambda kaiming, formula, error, low, high: (
            kaiming == 0 and formula > 1.5 and error < 15 and 0.8 < low < high < 1.25
        ),
    ),
    "5_sweeps": (
        r"([\d.]+) \+- [\d.]+ % at sigma_u = 1, ([\d.]+) \+- ",
        lambda good, bad: good > max(bad, 20),
    ),
    "6_dales_law": (
        r"([\d.]+) measured on data(?s:.*)accuracy ([\d.]+) % .* \(smallest: (-?[\d.e-]+)\)",
        lambda sigma_u, accuracy, smallest: (
            abs(sigma_u - 1) < 0.1 and accuracy > 20 and smallest >= 0
        ),
    ),
    "7_your_own_flax_model": (
        r"chance 25 %\): ([\d.]+) % for the NNX module, ([\d.]+) % for the Linen",
        lambda a, b: min(a, b) > 60,
    ),
    "8_delays_and_adaptation": (
        r"([\d.]+) % LIF, ([\d.]+) % with delays, ([\d.]+) % AdLIF(?s:.*)time steps: ([\d.]+) %",
        lambda lif, delays, adlif, rounded: (
            min(lif, delays) > 15 and adlif > 10 and abs(rounded - delays) < 5
        ),
    ),
    "9_event_camera": (
        r"([\d.]+) and ([\d.]+) calibrated, for a target of 1(?s:.*)accuracy ([\d.]+) %",
        lambda first, second, accuracy: (
            max(abs(first - 1), abs(second - 1)) < 0.1 and accuracy > 20
        ),
    ),
}
SMALL = {
    "1_fluctuation_driven": {"SECONDS": 1.0, "TRIALS": 6},
    "2_first_network": {"SAMPLES": 150, "EPOCHS": 8},
    "3_spoken_digits": {"RECORDINGS": 480, "EPOCHS": 6, "DEEP_EPOCHS": 2},
    "4_deep_networks": {"DEPTH": 4, "SAMPLES": 60, "EPOCHS": 2},
    "5_sweeps": {
        "SAMPLES, EPOCHS, SEEDS": (100, 8, 2),
        "SIGMAS": (0.03, 1.0),
        "TAUS": (0.005, 0.02),
        "LEARNING_RATES": (0.015,),
    },
    "6_dales_law": {"RECORDINGS": 240, "EPOCHS": 4},
    "7_your_own_flax_model": {"SAMPLES": 480, "EPOCHS": 12, "BATCH": 20},
    "8_delays_and_adaptation": {"RECORDINGS": 480, "EPOCHS": 5},
    "9_event_camera": {"RECORDINGS": 300, "EPOCHS": 3},
}
"""Other values of constants, for tests: smaller and faster."""


def _load_execute():
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


execute = _load_execute()
each = pytest.mark.parametrize("name", CLAIMS)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def assert_claim(name, notebook):
    pattern, holds = CLAIMS[name]
    said = texts(code_cells(notebook)[-1])
    found = re.search(pattern, said)
    assert found, said
    assert holds(*(float(number) for number in found.groups())), said


def test_all_notebooks_are_here():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(CLAIMS)
    assert SMALL.keys() == CLAIMS.keys()


@each
def test_code_is_for_readers(name):
    source = "\n".join(cell.source for cell in code_cells(read(name)))
    assert not re.search(r"^assert|snnjax\.\S*\._", source, re.MULTILINE)
    assert 'plt.style.use("snnjax.figures")' in source


@each
def test_opens_in_colab(name):
    notebook = read(name)
    assert notebook.cells[0].cell_type == "markdown"
    assert re.findall(re.escape(COLAB) + r"([^)]*)\)", notebook.cells[0].source) == [
        f"{name}.ipynb"
    ]
    assert "%pip install -q git+https://github.com/snnjax/snnjax" in code_cells(notebook)[0].source
    assert 'find_spec("snnjax") is None' in code_cells(notebook)[0].source


@each
def test_committed_outputs_are_of_one_run(name):
    notebook = read(name)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not any(
        "widget" in kind for o in outputs for kind in o.get("data", {})
    )  # sliders only work with a kernel
    assert_claim(name, notebook)


@each
def test_committed_outputs_are_clean(name):
    notebook = read(name)
    assert execute.clean(notebook) == notebook
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000
    for cell in code_cells(notebook):
        text = texts(cell)
        assert "\x1b" not in text
        assert not re.search(r"(?<![\w./:])(/(?!/)[\w.-]+){2,}|[A-Za-z]:\\", text), text
        assert " object at 0x" not in text


@pytest.mark.slow
@each
def test_runs_with_small_settings(name, monkeypatch):
    if name == "6_dales_law":  # trains longer than it compiles, so a better program pays
        flags = os.environ["XLA_FLAGS"].replace("optimization_level=0", "optimization_level=1")
        monkeypatch.setenv("XLA_FLAGS", flags)
    committed = read(name)
    fresh = execute.execute(committed, settings=SMALL[name])
    assert_claim(name, fresh)
    for old, new in zip(code_cells(committed), code_cells(fresh), strict=True):
        assert old.source == new.source
        assert [o.output_type for o in old.outputs] == [
            o.output_type for o in new.outputs if o.get("name") != "stderr"
        ]  # small layers are less exact, and `calibrate` warns


@pytest.mark.more
@pytest.mark.parametrize("name", ["3_spoken_digits", "6_dales_law", "8_delays_and_adaptation"])
def test_without_recordings_it_says_so_and_makes_some_up(name, monkeypatch):
    monkeypatch.delenv("SNNJAX_DATA", raising=False)
    notebook = read(name)
    loads = next(k for k, cell in enumerate(notebook.cells) if ".datasets()" in cell.source)
    notebook.cells = notebook.cells[: loads + 1]
    said = texts(execute.execute(notebook).cells[-1])
    assert "Data: generated spikes: no recordings were found" in said
    assert "10 classes" in said


def test_failing_cell_fails():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(Exception, match="AssertionError"):
        execute.execute(notebook)


def test_settings_replace_constants_only_while_the_notebook_runs():
    source = "EPOCHS = 20  # long\nprint(EPOCHS)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    (cell,) = execute.execute(notebook, settings={"EPOCHS": 3}).cells
    assert (texts(cell), cell.source) == ("3\n", source)
    with pytest.raises(ValueError, match="settings must name constants of the notebook, got 'X'"):
        execute.execute(notebook, settings={"X": 1})


def test_clean_joins_streams_and_drops_what_is_volatile():
    pieces = [
        nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("one ", "two")
    ]
    cell = nbformat.v4.new_code_cell(
        "print()", outputs=pieces, metadata={"execution": {"iopub.execute_input": "2026"}}
    )
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.7"}}
    )
    (cleaned,) = execute.clean(notebook).cells
    assert [o.text for o in cleaned.outputs] == ["one two"]
    assert cleaned.metadata == {}
    assert cleaned.id == "cell-00"
    assert "version" not in execute.clean(notebook).metadata.language_info
    assert len(notebook.cells[0].outputs) == 2
