r"""The function of one member applied to a whole ensemble.

Everything that differs between members has a leading axis.

    vmap     All members in one batched computation. This is fastest on accelerators.
    map      One member after another (`jax.lax.map`). This is fastest on a CPU, because a batched
             step does not fit in its caches. Every member gives the same numbers as alone.
    shard    Members spread over all devices (of all hosts if `jax.distributed` is set up). Each
             device uses vmap, or map if it is a CPU.
    local    As shard, over the devices of this process only.
    auto     shard with several devices; else vmap on an accelerator and map on a CPU.

A CPU is one device unless `snnjax.runtime.use_cpu_devices` splits it. The command line does this:
it makes one device per core, and each device trains its own members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snnjax import _check
from snnjax._pytree import PyTree

Kind = Literal["vmap", "map", "shard", "local"]
Placement = Literal["auto", "vmap", "map", "shard", "local"]
_AXIS = "member"
T = TypeVar("T")
S = TypeVar("S")


def resolve(placement: Placement) -> Kind:
    """The placement that `"auto"` means on this machine; other placements stay as they are.

    Args:
        placement: The placement.

    Returns:
        `"vmap"`, `"map"`, `"shard"` or `"local"`.

    Raises:
        ValueError: `placement` is not one of the five.

    >>> resolve("map")
    'map'
    """
    _check.one_of("placement", placement, get_args(Placement))
    if placement != "auto":
        return placement
    return "shard" if jax.device_count() > 1 else _on_one_device()


def _on_one_device() -> Literal["vmap", "map"]:
    return "map" if jax.default_backend() == "cpu" else "vmap"


def over_members(fn: Callable[[Any, Any], PyTree], kind: Kind) -> Callable[[Any, Any], Any]:
    """Map `fn(member, shared)` over all members.

    Args:
        fn: A pure function of one member's pytree and a pytree that all members share. It returns a
            pytree of arrays.
        kind: How the members are computed; see the module.

    Returns:
        `mapped(members, shared)`. The leaves of `members` and of the result have a leading axis
        with one entry per member. With `"shard"` and `"local"` its size must be a multiple of the
        number of devices (`pad`).

    >>> double = over_members(lambda x, y: 2 * x + y, "map")
    >>> double(jnp.arange(3), 1).tolist()
    [1, 3, 5]
    """
    if kind in _SPREAD:
        inner, own, whole = (
            over_members(fn, _on_one_device()),
            PartitionSpec(_AXIS),
            PartitionSpec(),
        )
        specs = {"in_specs": (own, whole), "out_specs": own}
        return jax.shard_map(inner, mesh=_mesh(kind), **specs, check_vma=False)
    if kind == "vmap":
        return jax.vmap(fn, in_axes=(0, None))
    return lambda members, shared: jax.lax.map(lambda member: fn(member, shared), members)


def pad(members: T, kind: Kind) -> tuple[T, int]:
    """Fill up `members` with copies of the last one, to a multiple of the number of devices.

    Args:
        members: A pytree of numpy arrays with a leading axis, one entry per member.
        kind: How the members are computed; only `"shard"` and `"local"` need copies.

    Returns:
        The padded members, and the number of members before.

    >>> pad({"seed": np.arange(3)}, "map")
    ({'seed': array([0, 1, 2])}, 3)
    """
    n = len(jax.tree.leaves(members)[0])
    extra = -n % _mesh(kind).size if kind in _SPREAD else 0
    if not extra:
        return members, n
    longer = lambda a: np.concatenate([a, np.repeat(a[-1:], extra, axis=0)])
    return jax.tree.map(longer, members), n


def put(members: T, shared: S, kind: Kind) -> tuple[T, S]:
    """Place the arguments of `over_members` on the devices.

    Args:
        members: A pytree with a leading axis. With `"shard"` and `"local"` each device gets its own
            members.
        shared: A pytree. Each device gets all of it.
        kind: How the members are computed.

    Returns:
        Both pytrees, on the devices.
    """
    if kind not in _SPREAD:
        return jax.tree.map(jnp.asarray, members), shared
    mesh = _mesh(kind)

    def place(spec: PartitionSpec) -> Callable[[Any], jax.Array]:
        # every process has the whole value and contributes the part of its own devices
        return lambda a: jax.make_array_from_callback(
            np.shape(a), NamedSharding(mesh, spec), lambda index: np.asarray(a)[index]
        )

    own, whole = place(PartitionSpec(_AXIS)), place(PartitionSpec())
    return jax.tree.map(own, members), jax.tree.map(whole, shared)


def gather(tree: T) -> T:
    """A pytree of arrays, sharded or not, as complete numpy arrays in every process."""
    if not all(a.is_fully_addressable for a in jax.tree.leaves(tree) if isinstance(a, jax.Array)):
        from jax.experimental import multihost_utils

        whole = lambda a: np.asarray(multihost_utils.process_allgather(a, tiled=True))
        return jax.tree.map(whole, tree)
    return jax.tree.map(np.asarray, jax.device_get(tree))


_SPREAD = ("shard", "local")


def _mesh(kind: Kind) -> Mesh:
    devices = jax.local_devices() if kind == "local" else jax.devices()
    return Mesh(np.array(devices), (_AXIS,))
