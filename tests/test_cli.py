import csv
import datetime
import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import snnjax
from snnjax import _cli, theory
from snnjax._cli import _with_flags, main
from snnjax._flags import Parser, add_flags, texts_of
from snnjax.experiments import Experiment, Sweep, _engine, _sweep_folder
from snnjax.experiments._options import options_of
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
    assert not (tmp_path / "run" / "waves").exists()
    row = json.loads((tmp_path / "run" / "results.json").read_text())
    assert call(["results", str(tmp_path / "run")]) == 0
    _, line, note = capsys.readouterr().out.splitlines()
    assert f"{100 * row['test_accuracy_final']:.1f}" in line
    assert "best: after the epoch with the best validation accuracy" in note


@pytest.mark.more
def test_default_run_folder_is_new_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call(["train", "randman", *SMALL, "--epochs", "1"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_processes_that_begin_in_the_same_second_get_their_own_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # it is made after one has looked
    now = datetime.datetime(2026, 1, 1)
    monkeypatch.setattr(_cli.datetime, "datetime", type("Clock", (), {"now": lambda: now}))
    with _cli._folder(None, "a") as one, _cli._folder(None, "a") as two:
        assert (one.name, two.name) == ("a-20260101-000000", "a-20260101-000000-1")


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_an_option_that_does_not_fit_the_data_leaves_no_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call([command, "randman", "--samples", "20", "--batch-size", "161"]) == 2
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "own").mkdir()  # a folder of the user stays
    assert call([command, "randman", "--samples", "20", "--out", str(tmp_path / "own")]) == 2
    assert list((tmp_path / "own").iterdir()) == []


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
        (["train", "randman", "--sigma-u", "-1"], "--sigma-u must be finite and > 0, got -1.0"),
        (["train", "shd", "--data", "no/such/folder"], "no/such/folder"),
        (["theory", "--sigma-u", "0"], "--sigma-u must be finite and > 0, got 0.0"),
        (["theory", "--mu-u", "1.5"], "--mu-u must be finite and < 1, got 1.5"),
        (["theory", "--nu", "0"], "--nu must be finite and > 0 Hz"),
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
    assert "is not an empty folder" in capsys.readouterr().err
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
        (None, "has no config.json"),
        ("{", "is not a JSON file"),
        ("[]", "must have names and values, got []"),
        ("{}", "must have the options of an experiment"),
        ('{"task": "randman", "dt": -1, "members": [{}]}', "dt"),
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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["train"], "name a task: randman, shd, ssc, digits, cifar10, dvs-gesture, nmnist"),
        (["train", "randmann"], "unknown task 'randmann'; did you mean randman?"),
        (["train", "randman", "--epoch", "2"], "unknown flag --epoch; did you mean --epochs?"),
        (["train", "randman", "--sigma", "1.0"], "unknown flag --sigma; did you mean --sigma-u?"),
        (["train", "randman", "--training.epochs", "2"], "did you mean --epochs?"),
        (["train", "randman", "--learning_rate", "1"], "did you mean --learning-rate?"),
        (["train", "randman", "--hidden", "8,8"], "--hidden must be whole numbers, separated by"),
        (["train", "randman", "--dt", "2"], "--dt must be at most half of duration 0.2 s, got 2 s"),
        (["--verison"], "did you mean --version?"),
        (["reproduce", "figur3"], "did you mean figure3?"),
        (["train", "randman", "more"], "unexpected 'more'"),
        (["train", "randman", "--epochs", "two"], "--epochs must be a whole number, got 'two'"),
        (["train", "randman", "--epochs", "-1"], "--epochs must be >= 1, got -1"),
        (["train", "randman", "--init", "lsuvv"], "got 'lsuvv'; did you mean lsuv?"),
        (["train", "randman", "--loss", "mse"], "--loss must be one of max_over_time"),
        (
            ["train", "randman", "--init", "lsuv", "--sigma-u", "1"],
            "--sigma-u is an option of init",
        ),
        (["train", "randman", "--alpha", "0.5"], "--alpha has no effect, because the network is"),
        (["train", "randman", "--model", "csnn4"], "--depth must be one of 1, 3, 7, 10, got 4"),
        (
            ["train", "randman", "--samples", "20", "--batch-size", "9999"],
            "--batch-size must be at most the size of the training set, 160, got 9999; with 16 an",
        ),
        (["train", "shd"], "name their folder by --data FOLDER or the environment"),
        (["train", "--resume", "nowhere"], "nowhere has no run or sweep"),
        (["train", "randman", "--resume", "x"], "give only it"),
        (["sweep", "randman", "--sigma-u", "1:2"], "values must be like 0.1,0.3,1 or 0:1:5"),
        (["sweep", "randman", "--process", "1"], "need --distributed"),
        (["sweep", "--resume", "nowhere"], "nowhere has no run or sweep"),
        (["sweep", "randman", "--depth", "1,1"], "--depth must have at least one value and none"),
        (["results", "nowhere"], "nowhere has no run or sweep"),
        (["reproduce", "figure9"], "figure9"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(argv, message, capsys, monkeypatch):
    monkeypatch.delenv("SNNJAX_DATA", raising=False)
    assert call(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("snnjax: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_without_a_task_shows_common_flags_and_where_all_are(capsys):
    for command in ("train", "sweep", "probe"):
        assert call([command, "--help"]) == 0
        before, _, after = capsys.readouterr().out.partition("positional arguments")
        assert after
        assert f"all of them: snnjax {command} randman --help" in before
        (line,) = [line for line in before.splitlines() if line.startswith("flags of a task:")]
        known = {
            f"--{o.name.replace('_', '-')}" for o in options_of(Experiment.from_options("shd"))
        }
        assert len(flags := set(line.split()[4:-1])) > 5
        assert flags <= known


def test_messages_name_only_the_flag():
    for text, shown in (
        ("sigma_u must be > 0", "--sigma-u must be > 0"),
        ("continue it with resume (--resume), or", "continue it with --resume, or"),
        ("on the device: stream = False (--no-stream)", "on the device: --no-stream"),
        ("on the device (--no-stream)", "on the device (--no-stream)"),
        ("their folder by data (--data FOLDER)", "their folder by --data FOLDER"),
    ):
        assert _with_flags(text) == shown


def test_bare_command_and_version_and_traceback(capsys):
    assert call([]) == 0
    assert "usage: snnjax COMMAND" in capsys.readouterr().out
    assert call(["--version"]) == 0
    assert capsys.readouterr().out == f"snnjax {snnjax.__version__}\n"
    with pytest.raises(ValueError, match="sigma_u must be"):
        main(["theory", "--sigma-u", "0", "--debug"])


def test_help_loads_no_jax():
    code = (
        "import sys\nfrom snnjax._cli import main\n"
        "try: main(['sweep', 'nmnist', '--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--learning-rate" in ran.stdout
    assert not {"jax", "flax", "matplotlib"} & set(ran.stdout.splitlines()[-1].split())


def test_help_shows_every_option_of_every_task_in_groups():
    for name in ("randman", "shd", "ssc", "digits", "cifar10", "dvs-gesture", "nmnist"):
        experiment = Experiment.from_options(name)
        parser = Parser(prog="x")
        add_flags(parser, experiment)
        text = " ".join(parser.format_help().split())
        for option in options_of(experiment):
            flag = f"--{option.name.replace('_', '-')}"
            assert flag in text or option.name == "task"
            assert option.name == "task" or texts_of(type(option.part))[option.field.name]
        assert "--learning-rate X, --lr X" in text
        for folder in experiment.task.folders:  # that are searched
            assert folder in texts_of(type(experiment.task))["data"]
        for group in ("neuron:", "training:", "objective:", "optimizer: muon:", "start:"):
            assert group in text


def test_flags_give_the_options_they_name():
    parser = Parser(prog="x")
    add_flags(parser, Experiment.from_options("shd"))
    words = "--lr 0.1 --recurrent --no-skip --hidden 64 32 --data here --nu none --init lsuv"
    assert parser.parse(words.split()) == {
        "learning_rate": 0.1,
        "recurrent": True,
        "skip": False,
        "hidden": [64, 32],
        "data": Path("here"),
        "nu": None,
        "init": "lsuv",
    }
    parser = Parser(prog="x")
    add_flags(parser, Experiment.from_options("shd"), several=True)
    words = "--sigma-u=0.5:2:log:3 --mu-u -0.5,0 --depth 1,3 --hidden 64,64x32 --skip yes,no"
    assert parser.parse([*words.split(), "--init", "lsuv,kaiming", "--seed", "3"]) == {
        "sigma_u": [0.5, 1.0, 2.0],
        "mu_u": [-0.5, 0.0],
        "depth": [1, 3],
        "hidden": [(64,), (64, 32)],
        "skip": [True, False],
        "init": ["lsuv", "kaiming"],
        "seed": [3],
    }


@pytest.mark.more
def test_a_sweep_over_depth_and_rate_is_one_command_and_is_resumed_and_plotted(tmp_path, capsys):
    folder = tmp_path / "sweep"
    small = [*SMALL, "--epochs", "1"]
    varied = ["--depth", "1,2", "--learning-rate", "0.001,0.01"]
    argv = ["sweep", "randman", *small, *varied, "--seeds", "1"]
    assert call([*argv, "--out", str(folder)]) == 0
    assert call([*argv, "--seeds", "2", "--resume", str(folder)]) == 0
    assert call(["sweep", "--resume", str(folder)]) == 0
    size = "networks: {} = 2 depth x 2 learning_rate x {} seed; groups that are compiled: 2\n"
    err = capsys.readouterr().err
    assert [err.count(size.format(4 * seeds, seeds)) for seeds in (1, 2)] == [1, 2]
    files = ["--csv", str(tmp_path / "all.csv"), "--figure", str(tmp_path / "all.png")]
    assert call(["results", str(folder), "--sort", "test_accuracy_final", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    means = [float(line.split()[5]) for line in lines[1:5]]
    assert means == sorted(means, reverse=True)
    assert [line.split()[2] for line in lines[1:5]] == ["2"] * 4
    with (tmp_path / "all.csv").open() as file:
        assert [(row["depth"], row["seed"]) for row in csv.DictReader(file)] == [
            *[("1", "0")] * 2,
            *[("2", "0")] * 2,
            *[("1", "1")] * 2,
            *[("2", "1")] * 2,
        ]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert call(["results", str(folder), "--csv", str(tmp_path / "all.csv")]) == 2
    assert "exists; name another file" in capsys.readouterr().err


def test_one_value_is_added_to_what_a_folder_sweeps(tmp_path, monkeypatch):
    base = Experiment.from_options("randman", model="csnn1", epochs=3)
    first = Sweep(base=base, over={"model": ("csnn1", "csnn3"), "sigma_u": (0.5, 1.0)}, seeds=1)
    _sweep_folder.open_folder(tmp_path, first.options(), first.members())
    seen = []

    def stop(sweep, *_, **__):
        seen.append(sweep)
        raise KeyboardInterrupt

    monkeypatch.setattr("snnjax.experiments.run_sweep", stop)
    flags = ["--epochs", "3", "--model", "csnn7", "--sigma-u", "2", "--seeds", "1"]
    assert call(["sweep", "randman", *flags, "--resume", str(tmp_path)]) == 130
    assert seen[0].members() == [{"model": "csnn7", "sigma_u": 2.0, "seed": 0}]
    _engine.check(seen[0], tmp_path, resume=True)


def test_a_full_disk_is_one_line_that_says_what_is_safe(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("snnjax.experiments._sweep_folder.write_whole", full)
    folder = tmp_path / "run"
    assert call(["train", "randman", *SMALL, "--out", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err == (
        f"snnjax: error: no space left on the disk for {folder}; free some, and continue with: "
        f"snnjax train --resume {folder}\n"
    )


def test_a_missing_extra_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it fails
    assert call(["train", "digits", "--out", str(tmp_path / "run")]) == 2
    assert (
        capsys.readouterr().err
        == "snnjax: error: digits needs scikit-learn: pip install 'snnjax[digits]'\n"
    )
    assert not (tmp_path / "run").exists()
