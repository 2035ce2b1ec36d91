import os
import subprocess
import sys

import pytest

from snnjax import runtime


def test_compile_quickly_leaves_a_choice_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert runtime.compile_quickly()
    assert (
        os.environ["XLA_FLAGS"]
        == "--xla_cpu_enable_fast_math=false --xla_backend_optimization_level=0"
    )
    assert not runtime.compile_quickly()
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    assert not runtime.compile_quickly()
    assert os.environ["XLA_FLAGS"] == "--xla_backend_optimization_level=2"


def test_cpu_devices_are_made_before_jax_starts_and_not_after():
    code = "from snnjax.runtime import use_cpu_devices as f; import jax; print(f(3), len(jax.devices()), f(5))"
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=env | {"JAX_PLATFORMS": "cpu"},
    )
    assert out.stdout.split() == ["3", "3", "3"]
    with pytest.raises(ValueError, match="number must be >= 1, got 0"):
        runtime.use_cpu_devices(0)


def run_with_cache(code, **env):
    keep = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=keep | {"JAX_PLATFORMS": "cpu"} | env,
    )
    return done.stdout.split()


@pytest.mark.more
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    # the number of compilations, from JAX's own log
    code = """
import sys, jax, jax.numpy as jnp
from snnjax.runtime import use_compilation_cache
counts = {}
jax.monitoring.register_event_listener(lambda name, **_: counts.update({name: counts.get(name, 0) + 1}))
folder = use_compilation_cache(max_mib=64)
value = jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((3, 3)))
print(folder, counts.get("/jax/compilation_cache/cache_hits", 0), counts.get("/jax/compilation_cache/cache_misses", 0), float(value[0, 0]))
"""
    first, second = (run_with_cache(code, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    assert first[0] == second[0] == str(tmp_path / "snnjax" / "compiled")
    assert int(first[2]) > 0 == int(first[1])
    assert int(second[1]) == int(first[2])
    assert int(second[2]) == 0
    assert first[3] == second[3]


def test_what_was_used_longest_ago_is_removed(tmp_path):
    for k in range(5):
        (tmp_path / f"p{k}-cache").write_bytes(bytes(300 * 2**10))
        os.utime(
            tmp_path / f"p{k}-cache", (1e9 + (k + 2) % 5, 1e9)
        )  # p3 is the oldest, then p4 and p0
    (tmp_path / "mine.txt").write_bytes(bytes(2**20))
    code = f"from snnjax.runtime import use_compilation_cache as f; f({str(tmp_path)!r}, max_mib=1)"
    run_with_cache(code)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "mine.txt",
        "p0-cache",
        "p1-cache",
        "p2-cache",
    ]


@pytest.mark.more
def test_the_cache_leaves_alone_what_was_set_and_what_cannot_be_written(tmp_path):
    code = "from snnjax.runtime import use_compilation_cache as f; import jax; print(f(), jax.config.jax_compilation_cache_dir)"
    (tmp_path / "file").write_text("")
    assert (
        run_with_cache(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
        == [str(tmp_path / "mine")] * 2
    )
    assert run_with_cache(code, XDG_CACHE_HOME=str(tmp_path / "file")) == ["None", "None"]
    assert run_with_cache(
        code, XDG_CACHE_HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false"
    ) == ["None", "None"]
    with pytest.raises(ValueError, match="max_mib must be >= 1, got 0"):
        runtime.use_compilation_cache(max_mib=0)
