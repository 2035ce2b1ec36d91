"""Where the data of a task are found, and what is said if they are missing."""

import pytest

from snnjax.experiments import Experiment, MissingDataError, run
from snnjax.experiments._tasks import CIFAR10, NMNIST, SHD, SSC, TASKS, VARIABLE, DVSGesture, find


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    for file in (
        "shd/fsdd_train.h5",
        "ssc/ssc_valid.h5",
        "nmnist/Train.zip",
        "dvs_gesture/trials_to_train.txt",
    ):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    return tmp_path


def test_data_are_found_in_the_folder_or_in_a_subfolder(root, monkeypatch):
    (root / "tfds" / "cifar10").mkdir(parents=True)
    folders = {SHD: "shd", SSC: "ssc", NMNIST: "nmnist", DVSGesture: "dvs_gesture", CIFAR10: "tfds"}
    for task, name in folders.items():
        assert find(task, root) == find(task, root / name) == root / name
    monkeypatch.setenv(VARIABLE, str(root))
    for task, name in folders.items():
        assert find(task, None) == root / name
    # the folder of the user counts more than that of the environment
    other = root / "other" / "shd_format"
    other.mkdir(parents=True)
    (other / "x_train.h5").touch()
    assert find(SHD, root / "other") == other


@pytest.mark.parametrize("task", [task for task in TASKS if task.holds])
def test_missing_data_are_reported_before_a_folder_is_written(task, root, monkeypatch):
    experiment = Experiment.from_options(task.name)
    held = " or ".join(task.holds).replace("*", r"\*")
    if task is not CIFAR10:  # whose data are then in the default folder of tensorflow-datasets
        with pytest.raises(
            MissingDataError, match=rf"task {task.name} needs data \({held}\); .* {VARIABLE}"
        ):
            run(experiment, root / "run")
    monkeypatch.setenv(VARIABLE, str(root / "empty"))
    with pytest.raises(MissingDataError, match=f"needs {held} in the folder data .*, but neither"):
        run(experiment, root / "run")
    with pytest.raises(MissingDataError, match="neither nowhere nor its subfolders") as error:
        run(experiment.replace(data="nowhere"), root / "run")
    assert ("add download (--download)" in str(error.value)) == (task in (SHD, SSC, CIFAR10))
    assert not (root / "run").exists()
