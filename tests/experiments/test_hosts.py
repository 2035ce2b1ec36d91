"""One sweep on several processes, with one folder."""

import socket
import subprocess
import sys
import time

import pytest

from benchmarks import kill_sweep

SMALL = [
    *("sweep", "randman", "--classes", "3", "--samples", "20", "--batch-size", "24"),
    *("--hidden", "12", "--dt", "0.005", "--epochs", "2", "--seeds", "2", "--wave", "1"),
    *("--depth", "1,2", "--placement", "map"),
]
COMMAND = [sys.executable, "-c", "from snnjax._cli import main; main()"]
FAILING = """
from snnjax.experiments import _engine

def fail(*_, **__):
    raise MemoryError("here")

_engine.train_together = fail
from snnjax._cli import main; main()
"""


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(count, *more, failing=None):
    """Start `count` processes that share a sweep. Process `failing` fails in its first wave."""
    address = f"localhost:{free_port()}"
    for k in range(count):
        cluster = ["--distributed", "--coordinator", address]
        own = [*cluster, "--processes", str(count), "--process", str(k)]
        command = [sys.executable, "-c", FAILING] if k == failing else COMMAND
        yield subprocess.Popen(
            [*command, *SMALL, *(own if count > 1 else []), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the sweep, from one process."""
    folder = tmp_path_factory.mktemp("hosts") / "alone"
    (process,) = start(1, "--out", str(folder))
    assert process.wait() == 0
    return folder


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(alone, tmp_path):
    processes = list(start(2, "--out", str(tmp_path / "many")))
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert kill_sweep.differences(alone, tmp_path / "many") == []


@pytest.mark.slow
def test_two_are_killed_and_four_resume(alone, tmp_path):
    folder = tmp_path / "many"
    first, second = start(2, "--out", str(folder))
    # both train: two members of four are claimed
    while len(list(folder.glob("waves/*/claimed"))) < 2:
        assert first.poll() is None
        time.sleep(0.1)
    second.kill()
    first.kill()  # what JAX does to the other processes after its heartbeat fails, in minutes
    for process in (first, second):
        process.communicate()
    assert len(list(folder.glob("members/*/results.json"))) < 4
    for process in list(start(4, "--resume", str(folder))):
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert kill_sweep.differences(alone, folder) == []


@pytest.mark.slow
def test_if_one_of_two_fails_the_other_goes_on(alone, tmp_path):
    folder = tmp_path / "many"
    first, second = start(2, "--out", str(folder), failing=1)
    _, error = second.communicate()
    assert second.returncode == 2
    assert "snnjax: error: out of memory: here" in error
    _, error = first.communicate()
    assert first.returncode == 0, error
    assert kill_sweep.differences(alone, folder) == []
