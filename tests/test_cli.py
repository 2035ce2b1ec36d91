import json
import subprocess
import sys

import numpy as np
import pytest

from snnjax import theory
from snnjax._cli import main
from snnjax.psp import Kernel

SMALL = [
    "--start",
    "paper",
    "--classes",
    "3",
    "--inputs",
    "6",
    "--samples",
    "40",
    "--hidden",
    "24",
    "--epochs",
    "2",
    "--batch-size",
    "16",
]


def call(argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    return stopped.value.code


def test_train_randman_writes_where_it_is_told(tmp_path, capsys):
    assert (
        call(["train", "randman", *SMALL, "--out", str(tmp_path / "run"), "--sigma-u", "0.7"]) == 0
    )
    out = capsys.readouterr().out
    assert "test accuracy, final network" in out
    assert str(tmp_path / "run" / "learning_curves.png") in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["sigma_u"], config["hidden"], config["epochs"]) == (0.7, [24], 2)


@pytest.mark.more
def test_default_run_folder_is_new_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call(["train", "randman", *SMALL, "--epochs", "1"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_theory_prints_the_library_s_numbers(capsys):
    assert call(["theory", "--n", "700", "--nu", "15.8", "--n-recurrent", "128"]) == 0
    out = capsys.readouterr().out
    kernel = Kernel(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    afferents = [theory.Afferent(700, 15.8, 0.9), theory.Afferent(128, 15.8, 0.1)]
    for weights in theory.afferent_weights(0.0, 1.0, afferents, kernel):
        assert f"sigma_w {weights.sigma_w:.6g}" in out
    assert "ebar 11.0333 ms, ehat 2.03561 ms" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "randman", "--sigma-u", "-1"], "sigma_u must be finite and > 0, got -1.0"),
        (["train", "shd", "--data", "no/such/folder"], "no/such/folder"),
        (["theory", "--sigma-u", "0"], "sigma_u must be finite and > 0, got 0.0"),
        (["theory", "--mu-u", "1.5"], "mu_u must be finite and < 1, got 1.5"),
        (["theory", "--nu", "0"], "nu must be finite and > 0 Hz"),
        (
            ["theory", "--n", "18", "--nu", "1", "--mu-u", "0.5", "--sigma-u", "0.25"],
            "-0.2594 <= mu_u <= 0.2594",
        ),
    ],
)
def test_wrong_settings_end_with_one_line_and_status_2(argv, message, capsys):
    assert call(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_an_occupied_run_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert call(["train", "randman", *SMALL, "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.more
def test_divergence_is_status_1_and_keeps_the_folder(tmp_path, capsys):
    argv = [
        "train",
        "randman",
        *SMALL,
        "--out",
        str(tmp_path / "run"),
        "--upper-strength",
        "3e38",
        "--upper-rate",
        "0",
    ]
    assert call(argv) == 1
    assert "not finite at epoch 1" in capsys.readouterr().out
    assert (tmp_path / "run" / "final.npz").exists()


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["train", "randman", "--help"], ["theory", "--help"]]
)
def test_help_names_what_follows(argv, capsys):
    assert call(argv) == 0
    out = capsys.readouterr().out
    wanted = {
        1: ["train", "theory"],
        2: ["randman", "shd"] if argv[0] == "train" else ["--mu-u"],
        3: ["--sigma-u", "--hidden", "--data-seed"],
    }
    assert all(word in out for word in wanted[len(argv)])


def test_probe_of_a_saved_run_and_of_an_untrained_network(tmp_path, capsys):
    run = tmp_path / "run"
    assert call(["train", "randman", *SMALL, "--init", "kaiming", "--out", str(run)]) == 0
    capsys.readouterr()
    assert (
        call(
            [
                "probe",
                "--figure",
                str(tmp_path / "probe.png"),
                "run",
                str(run),
                "--parameters",
                "initial",
            ]
        )
        == 0
    )
    saved = capsys.readouterr().out
    assert "of the neurons never spike" in saved
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    # the same network before training, from its settings
    assert call(["probe", "randman", *SMALL, "--init", "kaiming"]) == 0
    assert capsys.readouterr().out.splitlines()[:6] == saved.splitlines()[:6]
    assert call(["probe", "run", str(run)]) == 0
    assert capsys.readouterr().out != saved
    assert call(["probe", "--figure", str(tmp_path / "probe.png"), "run", str(run)]) == 2
    assert "exists; name another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json"),
        ("{", "is not a JSON file"),
        ("[]", "must name one of the configurations"),
        ('{"config": "RandmanConfig", "dt": -1}', "dt"),
    ],
)
def test_probe_of_a_damaged_run(tmp_path, content, message, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert call(["probe", "run", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_importing_the_package_is_lazy():
    """`import snnjax` loads neither flax nor packages for command line, files and figures.

    `snnjax.nn` needs flax.
    """
    code = "import sys, snnjax, snnjax.theory, snnjax.dynamics, snnjax.initializers; print(*sys.modules)"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert "snnjax.theory" in loaded
    assert not loaded & {
        "flax",
        "h5py",
        "matplotlib",
        "rich",
        "tyro",
        "tensorflow_datasets",
        "tensorflow",
        "snnjax.runtime",
    }
    code = "import sys, snnjax, snnjax.nn, snnjax.training, snnjax.datasets; print(*sys.modules)"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert "flax.nnx" in loaded
    assert not loaded & {
        "h5py",
        "matplotlib",
        "tyro",
        "tensorflow_datasets",
        "tensorflow",
        "snnjax.runtime",
    }


def test_top_level_names():
    import snnjax

    assert set(dir(snnjax)) >= {"nn", "theory", "datasets", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = snnjax.nope
    assert np.isclose(snnjax.psp.Kernel(tau_syn=0.01, mode="continuous").mean(), 0.01)


def test_options_of_a_sweep_may_stand_anywhere():
    from snnjax._cli import swept

    rest, _ = swept(["sweep", "--seeds", "2", "randman", "--out", "here", "--resume"])
    assert rest == ["sweep", "--seeds", "2", "--resume", "randman", "--out", "here"]
    rest, varied = swept(
        [
            "sweep",
            "shd",
            "--data",
            "here",
            "--seeds",
            "3",
            "--sigma-u",
            "0.5,1",
            "--wave=4",
            "--epochs",
            "2",
            "--placement",
            "map",
        ]
    )
    assert rest == [
        "sweep",
        "--seeds",
        "3",
        "--wave=4",
        "--placement",
        "map",
        "shd",
        "--data",
        "here",
        "--epochs",
        "2",
    ]
    assert varied == {"sigma_u": [0.5, 1.0]}
    assert swept(["sweep", "randman", "--seeds"])[0] == [
        "sweep",
        "--seeds",
        "randman",
    ]  # its value is missing: the parser reports this


def test_a_missing_extra_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it fails
    assert call(["train", "digits", "--out", str(tmp_path / "run")]) == 2
    assert (
        capsys.readouterr().err
        == "snnjax: error: digits needs scikit-learn: pip install 'snnjax[digits]'\n"
    )
    assert not (tmp_path / "run").exists()
