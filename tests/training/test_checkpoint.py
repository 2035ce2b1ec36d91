import numpy as np
import pytest

from snnjax.training._checkpoint import Checkpoints
from snnjax.training._ensemble import Snapshot


def snapshot(epoch):
    """A snapshot whose arrays are so large that they are in a separate file."""
    numbers = np.random.default_rng(epoch).normal(size=(3, 4000)).astype(np.float32)
    return Snapshot(
        epoch,
        {"w": numbers, "n": np.arange(3)},
        {"train_loss": numbers[:, : epoch + 1]},
        {"sigma_u_1": numbers[:, 0]} if epoch else {},
    )


def same(a, b):
    return a.epoch == b.epoch and all(
        x.keys() == y.keys()
        and all(np.array_equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)
        for x, y in zip(a[1:], b[1:], strict=True)
    )


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (0, 1, 2):
        checkpoints.save(snapshot(epoch))
    return tmp_path


def test_the_last_of_two(folder):
    assert same(Checkpoints(folder).restore(snapshot(0).state), snapshot(2))
    assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == ["1", "2"]
    assert Checkpoints(folder / "none").restore(snapshot(0).state) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "flip"])
def test_a_damaged_snapshot_is_passed_over(folder, damage):
    """For damage to any file, the restored snapshot is complete."""
    largest = max(
        (p for p in (folder / "2").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "flip": bytes(content)}[damage]
    )
    checkpoints = Checkpoints(folder)
    assert same(checkpoints.restore(snapshot(0).state), snapshot(1))
    checkpoints.save(snapshot(2))  # the damaged one is not in the way
    assert same(Checkpoints(folder).restore(snapshot(0).state), snapshot(2))


def test_nothing_whole_is_nothing(folder):
    for metadata in folder.glob("*/*/_METADATA"):
        metadata.write_text("{}")
    assert Checkpoints(folder).restore(snapshot(0).state) is None


def test_a_snapshot_that_would_not_be_written_is_an_error(folder):
    with pytest.raises(ValueError, match=r"no checkpoint of epoch 1 or later, got .* of epoch 2;"):
        Checkpoints(folder).save(snapshot(1))


def test_another_ensemble_s(folder):
    with pytest.raises(
        ValueError,
        match=r"the checkpoint of epoch 2 is of another network or ensemble: its arrays have shapes .* not \[\(5,\)\]",
    ):
        Checkpoints(folder).restore({"w": np.zeros(5)})
