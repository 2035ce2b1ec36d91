r"""One member's function over a whole ensemble: a leading axis on everything that differs between members.

    vmap     all members in one batched computation: what accelerators want
    map      one member after another (`jax.lax.map`): on a CPU, whose caches a batched step overflows, and every member's numbers are those it has alone
    shard    members spread over all devices, of all hosts where `jax.distributed` is set up; on each device vmap or, on a CPU, map
    auto     shard where there are several devices, else vmap on an accelerator and map on a CPU

A CPU is one device unless `snnjax.runtime.use_cpu_devices` made several of it, as the command line does: one a core, each with members of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snnjax import _check

Placement = Literal["auto", "vmap", "map", "shard"]
_AXIS = "member"


def resolve(placement: Placement) -> Literal["vmap", "map", "shard"]:
    """What `"auto"` means on this machine; anything else as it is.

    >>> resolve("map")
    'map'
    """
    _check.one_of("placement", placement, get_args(Placement))
    if placement != "auto":
        return placement
    return "shard" if jax.device_count() > 1 else _on_one_device()


def _on_one_device() -> Literal["vmap", "map"]:
    return "map" if jax.default_backend() == "cpu" else "vmap"


def over_members(
    fn: Callable[[Any, Any], Any], *, placement: Placement = "auto"
) -> Callable[[Any, Any], Any]:
    """`fn(member, shared)` for all members at once.

    Args:
      fn: a pure function of one member's pytree and a pytree that all share; returns a pytree of arrays.

    Returns:
      `mapped(members, shared)`: `members` and the result have a leading axis, one entry a member. Placed by `"shard"` that axis must be a multiple
      of the number of devices (`pad`).

    >>> double = over_members(lambda x, y: 2 * x + y, placement="map")
    >>> double(jnp.arange(3), 1).tolist()
    [1, 3, 5]
    """
    kind = resolve(placement)
    if kind == "shard":
        inner = over_members(fn, placement=_on_one_device())
        return jax.shard_map(
            inner,
            mesh=_mesh(),
            in_specs=(PartitionSpec(_AXIS), PartitionSpec()),
            out_specs=PartitionSpec(_AXIS),
            check_vma=False,
        )
    if kind == "vmap":
        return jax.vmap(fn, in_axes=(0, None))
    return lambda members, shared: jax.lax.map(lambda member: fn(member, shared), members)


def pad(members: Any, *, placement: Placement = "auto") -> tuple[Any, int]:
    """`members` (a pytree of numpy arrays with a leading axis) with copies of the last one up to a multiple of the devices, and how many there were.

    >>> pad({"seed": np.arange(3)}, placement="map")
    ({'seed': array([0, 1, 2])}, 3)
    """
    n = len(jax.tree.leaves(members)[0])
    multiple = jax.device_count() if resolve(placement) == "shard" else 1
    extra = -n % multiple
    return jax.tree.map(
        lambda a: np.concatenate([a, np.repeat(a[-1:], extra, axis=0)]) if extra else a, members
    ), n


def put(members: Any, shared: Any, *, placement: Placement = "auto") -> tuple[Any, Any]:
    """Both on the devices where `over_members` wants them: each device its members, and all of `shared`."""
    if resolve(placement) != "shard":
        return jax.tree.map(jnp.asarray, members), shared
    mesh = _mesh()

    def place(spec: PartitionSpec) -> Callable[[Any], jax.Array]:
        # every process holds the whole value and gives the part of its own devices
        return lambda a: jax.make_array_from_callback(
            np.shape(a), NamedSharding(mesh, spec), lambda index: np.asarray(a)[index]
        )

    return jax.tree.map(place(PartitionSpec(_AXIS)), members), jax.tree.map(
        place(PartitionSpec()), shared
    )


def gather(tree: Any) -> Any:
    """A pytree of arrays, sharded or not, as numpy arrays that every process has whole."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return jax.tree.map(
            lambda a: np.asarray(multihost_utils.process_allgather(a, tiled=True)), tree
        )
    return jax.tree.map(np.asarray, jax.device_get(tree))


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (_AXIS,))
