"""Batches that other libraries make, for training: a DataLoader, grain, tf.data, or a generator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from snnjax import _check
from snnjax._pytree import pytree_dataclass
from snnjax.datasets import _arrays

Pair = tuple[ArrayLike, object]
"""Inputs and targets of a batch; targets may be a dict or tuple of arrays."""


@pytree_dataclass
class Batch:
    """One batch on the device, as a `BatchSource`. A pytree.

    Attributes:
        x: Inputs (time, batch, ...features), any dtype.
        y: Targets, one per sample, as the loss takes them (`snnjax.losses`).
        separable: Parts of the batch can be taken.

    >>> batch = Batch(x=jnp.zeros((50, 8, 3)), y=jnp.arange(8))
    >>> len(batch), batch.batch(jnp.arange(4))[0].shape
    (8, (50, 4, 3))
    """

    x: jax.Array
    y: Any

    separable: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.x.shape[1]

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, Any]:
        """Inputs in float32 and targets of some samples.

        Args:
            indices: Integers (n,). As many as there are samples stand for the batch as it is.
            key: Not used.

        Returns:
            Inputs (time, n, ...features) and their targets.
        """
        x, y = self.x, self.y
        if len(indices) < len(self):
            some = lambda a: a[:, indices] if a.ndim == 3 else a[indices]
            x, y = x[:, indices], jax.tree.map(some, y)
        return x.astype(jnp.float32), y


class Batches:
    """An iterable of batches `(x, y)` as training, validation or test data.

    It is iterated again in every epoch. Batches of the same shape share a compiled program.
    Therefore only the last batch should have another size; it is also used.

    Args:
        batches: An iterable that can be iterated many times: a list, a
            `torch.utils.data.DataLoader`, a `tf.data.Dataset`, a grain loader. Or a function of the
            epoch's number (0, 1, ...) that returns an iterable, for example a generator function.
            Resumed training is exact if the result of the function depends only on the number.
        batch_first: Whether x is (batch, time, ...features) and traces y are (batch, time, k).
            Otherwise x is time-major, (time, batch, ...features).
        dt: Time step of x, s, or None. `snnjax.training.fit` refuses another one.

    Raises:
        TypeError: `batches` is neither; or a function that does not take one number.
        ValueError: `batches` can be iterated only once.

    x and y may be arrays of any library with `__array__`. y is what the loss takes: classes
    (batch,), values (batch, k), traces (time, batch, k), or a dict or tuple of such arrays.

    >>> def batches(epoch):
    ...     rng = np.random.default_rng(epoch)
    ...     for _ in range(3):
    ...         yield rng.random((50, 8, 20)) < 0.1, rng.integers(2, size=8)
    >>> data = Batches(batches)
    >>> [batch.x.shape for batch in data.epoch(1)]
    [(50, 8, 20), (50, 8, 20), (50, 8, 20)]
    """

    def __init__(
        self,
        batches: Iterable[Pair] | Callable[[int], Iterable[Pair]],
        *,
        batch_first: bool = False,
        dt: float | None = None,
    ) -> None:
        wanted = "batches must be an iterable of (x, y), or a function of the epoch's number"
        if isinstance(batches, Iterable):
            if iter(batches) is batches:
                got = f"a {type(batches).__name__} can be iterated only once"
                raise ValueError(f"{wanted}, as lambda epoch: ...; {got}")
        elif not callable(batches):
            raise TypeError(f"{wanted}, got {type(batches).__name__} {batches!r}")
        else:
            try:
                inspect.signature(batches).bind(0)
            except TypeError:
                raise TypeError(f"{wanted}, lambda epoch: ..., got {batches!r}") from None
        if dt is not None:
            _arrays.check_dt(dt)
        self._batches, self.batch_first, self.dt = batches, batch_first, dt

    def epoch(self, epoch: int) -> Generator[Batch, None, None]:
        """The batches of an epoch, on the default device.

        Raises:
            TypeError: A batch is not a pair.
            ValueError: There is no batch, or x has fewer than two axes, no sample, or another
                number of samples than y.
        """
        made, k = self._batches, -1
        for k, pair in enumerate(made if isinstance(made, Iterable) else made(epoch)):
            with _check.at(f"batch {k}"):
                batch = self._put(pair)
            yield batch
        if k < 0:
            raise ValueError(f"batches must give at least one batch per epoch, got none in {epoch}")

    def _put(self, pair: object) -> Batch:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"a batch must be a pair (x, y), got {type(pair).__name__}")
        x, y = np.asarray(pair[0]), pair[1]
        y = jax.tree.map(np.asarray, np.asarray(y) if isinstance(y, list) else y)
        if x.ndim < 2:
            raise ValueError(f"x must have shape (time, batch, ...features), got {x.shape}")
        if self.batch_first:
            x = np.moveaxis(x, 0, 1)
            y = jax.tree.map(lambda a: np.moveaxis(a, 0, 1) if a.ndim == 3 else a, y)
        n = x.shape[1]
        if n == 0:
            raise ValueError(f"x must hold at least one sample, got {x.shape}")
        for target in jax.tree.leaves(y):
            if target.ndim < 3 and target.shape[:1] != (n,):
                expected = f"x must be time-major, with as many samples as y {target.shape}"
                hint = ""
                if target.shape[:1] == x.shape[:1] and not self.batch_first:
                    hint = "; Batches(..., batch_first=True) takes (batch, time, ...)"
                raise ValueError(f"{expected}, got (time, batch, ...) = {x.shape}{hint}")
        return Batch(x=jnp.asarray(x), y=jax.tree.map(jnp.asarray, y))
