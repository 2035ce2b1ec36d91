import dataclasses

import jax
import pytest

from snnjax._pytree import pytree_dataclass, replaced, static
from snnjax.dynamics import LIF


@pytree_dataclass
class Model:
    tau: float = 0.02
    dt: float = static(default=1e-3)

    def __post_init__(self):
        if self.tau <= 0:
            raise ValueError("tau")


def test_leaves_and_structure():
    leaves, treedef = jax.tree.flatten(Model(tau=0.5, dt=2e-3))
    assert leaves == [0.5]
    assert jax.tree.unflatten(treedef, [7.0]) == Model(tau=7.0, dt=2e-3)
    assert treedef != jax.tree.structure(Model(dt=1.0))


def test_paths_are_attribute_names():
    ((path, _),), _ = jax.tree_util.tree_flatten_with_path(Model())
    assert jax.tree_util.keystr(path) == ".tau"


def test_constructor_checks_and_rebuilding_does_not():
    with pytest.raises(ValueError, match="tau"):
        Model(tau=-1.0)
    with pytest.raises(ValueError, match="tau"):
        dataclasses.replace(Model(), tau=-1.0)
    assert jax.tree.map(lambda x: -x, Model()).tau == -0.02
    assert jax.tree.map(lambda _: None, Model()).tau is None


def test_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Model().tau = 1.0
    with pytest.raises(TypeError):
        Model(0.1)


def test_static_field_retraces_and_leaf_does_not():
    traces = []

    @jax.jit
    def f(m):
        traces.append(1)
        return m.tau * m.dt

    f(Model(tau=1.0)), f(Model(tau=2.0))
    assert len(traces) == 1
    f(Model(tau=1.0, dt=5e-3))
    assert len(traces) == 2


def test_replaced_runs_no_checks_of_ours_and_the_constructor_of_others():
    """Values that a program computes need no check; other classes may compute more from fields."""
    assert replaced(LIF(), tau_mem=-1.0).tau_mem == -1.0
    assert replaced(LIF(theta=2.0), tau_mem=0.1) == LIF(theta=2.0, tau_mem=0.1)

    @dataclasses.dataclass(frozen=True)
    class Plain:
        tau: float
        twice: float = dataclasses.field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "twice", 2 * self.tau)

    assert replaced(Plain(1.0), tau=3.0).twice == 6.0
