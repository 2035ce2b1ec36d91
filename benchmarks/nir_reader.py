r"""Do networks that are exported as NIR have the same spikes in other tools?

    python -m benchmarks.nir_reader write FOLDER
        In this environment: writes networks as NAME-SCHEME.nir, their inputs and spikes as
        NAME.npz.
    python benchmarks/nir_reader.py read FOLDER
        In an environment with torch, nir, nirtorch, snntorch and norse (snnjax is not needed):
        prints one JSON line per reader, and writes a network of snntorch to FOLDER/back.
    python -m benchmarks.nir_reader back FOLDER
        In this environment: reads and runs that network with snnjax.

The comparison uses the spikes of the last of L layers: z in snnjax and y in the reader, in float64
on both sides (the weights are float32 numbers). A reader that updates current, membrane and spikes
within one step has y[t] equal to z[t + 2 L]. z[t + shift] and y[t] are compared at the shift with
the best agreement.

    identical     fraction of equal spike trains (a neuron in a trial)
    until_first   fraction of trains that are equal up to and including their first spike
    matched       fraction of spikes in snnjax that are also spikes in the reader, at equal times
    spikes        number of spikes in the reader over that in snnjax
    silent        fraction of trains in snnjax without a spike

Readers:

    nirtorch      nirtorch runs the graph. It has all nodes except the neurons. These are twenty
                  lines of torch below, written from the equations of NIR:
      ours        order and reset of snnjax, by the scheme of the file. They send at t what
                  snnjax sends at t + 1, because nirtorch delays spikes in a loop by one step.
      at once     order and reset of other readers: current, membrane, spike and reset within a
                  step.
    snntorch      snntorch.import_from_nir. It fixes dt = 1e-4 s and r = tau_mem / dt, so the
                  graph is converted to these units of time and voltage, which changes nothing
                  else. `reset_delay` is the attribute of its neurons, False as imported.
    norse         norse.torch.from_nir(graph, dt=dt), with Euler steps
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DT = 2e-3
SNNTORCH_DT = 1e-4


def write(folder: Path) -> None:
    """Write networks in float32, and their spikes in float64.

    Args:
        folder: Folder to write.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from snnjax.exchange import from_nir, to_nir
    from snnjax.nn import Flatten, FluctuationDriven, Pool, Sequential, SpikingConv2d, SpikingDense

    nir: Any = importlib.import_module("nir")
    jax.config.update("jax_enable_x64", True)
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=20.0, sigma_u=1.5)
    dense = lambda n_in, n_out, **options: SpikingDense(
        n_in, n_out, init=init, rngs=rngs, **options
    )
    conv = lambda n_in, n_out: SpikingConv2d(
        n_in, n_out, kernel_size=3, padding=1, init=init, rngs=rngs
    )
    networks = {
        "one_layer": (Sequential(dense(100, 64)), (100,)),
        "three_layers": (Sequential(dense(100, 64), dense(64, 64), dense(64, 64)), (100,)),
        "average_pooling": (
            Sequential(
                conv(2, 8), Pool(2, kind="average"), conv(8, 8), Flatten(), dense(8 * 6 * 5, 32)
            ),
            (12, 10, 2),
        ),
        "max_pooling": (
            Sequential(conv(2, 8), Pool(2), conv(8, 8), Flatten(), dense(8 * 6 * 5, 32)),
            (12, 10, 2),
        ),
        "recurrent": (Sequential(dense(100, 64, recurrent=True)), (100,)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (network, features) in networks.items():
        x = np.random.default_rng(0).random((250, 8, *features)) < 20.0 * DT
        graphs = {
            scheme: to_nir(network, features=features, scheme=scheme)
            for scheme in ("exponential", "euler")
        }
        for scheme, graph in graphs.items():
            nir.write(folder / f"{name}-{scheme}.nir", graph)
        wide = nir.read(folder / f"{name}-exponential.nir")
        for node in wide.nodes.values():
            if hasattr(node, "weight"):
                node.weight = node.weight.astype(np.float64)
        z = np.asarray(from_nir(wide)(jnp.asarray(x, jnp.float64))[0])
        narrow = np.asarray(network(jnp.asarray(x, jnp.float32))[0])
        print(
            f"{name}: {z.mean() / DT:.1f} Hz, {np.mean(np.any(z != narrow, axis=0)):.4f} of the trains differ between float32 and float64"
        )
        np.savez(folder / f"{name}.npz", x=np.moveaxis(x, -1, 2), z=z)


def read(folder: Path) -> None:
    nir: Any = importlib.import_module("nir")
    packages = ("torch", "nir", "nirtorch", "snntorch", "norse")
    print(
        json.dumps({"versions": {name: importlib.metadata.version(name) for name in packages}}),
        flush=True,
    )
    for data in sorted(folder.glob("*.npz")):
        arrays = np.load(data)
        for scheme in ("exponential", "euler"):
            for reader, run in READERS.items():
                graph = nir.read(folder / f"{data.stem}-{scheme}.nir")
                layers = sum(type(node).__name__ == "CubaLIF" for node in graph.nodes.values())
                try:
                    with contextlib.redirect_stdout(sys.stderr):  # snntorch prints to stdout
                        y = run(graph, arrays["x"])
                    result = compare(arrays["z"], y, 2 * layers)
                except Exception as error:  # code of other libraries: their error is the result
                    result = {"error": f"{type(error).__name__}: {error}"[:160]}
                print(
                    json.dumps(
                        {"network": data.stem, "scheme": scheme, "reader": reader, **result}
                    ),
                    flush=True,
                )

    _write_back(folder / "back")


def back(folder: Path) -> None:
    """Compare spikes z of the network that snntorch exported with the later spikes y in snnjax.

    Args:
        folder: Folder that `read` wrote.
    """
    import jax.numpy as jnp

    from snnjax.exchange import load_nir

    arrays = np.load(folder / "back" / "snntorch.npz")
    network = load_nir(folder / "back" / "snntorch.nir", dt=SNNTORCH_DT, scheme="euler")
    y = np.asarray(network(jnp.asarray(arrays["x"], jnp.float32))[0])
    print(
        json.dumps(
            {
                "network": "snntorch's own",
                "scheme": "euler",
                "reader": "snnjax",
                **compare(y, arrays["z"], 2 * len(network.layers)),
            }
        )
    )


def _write_back(folder: Path) -> None:
    """Export two layers of snntorch's current-based neurons.

    They have snntorch's own order and reset (to zero).
    """
    torch, snn, nir = (importlib.import_module(name) for name in ("torch", "snntorch", "nir"))
    export = importlib.import_module("snntorch.export_nir").export_to_nir
    torch.manual_seed(0)
    layers = []
    for n_in, n_out, alpha, beta in ((100, 64, 0.8, 0.9), (64, 32, 0.7, 0.95)):
        layers.append(torch.nn.Linear(n_in, n_out, bias=False))
        # arrays with one value per neuron: nir refuses the nodes that it makes from plain numbers
        one = torch.ones(n_out)
        layers.append(
            snn.Synaptic(
                alpha=alpha * one,
                beta=beta * one,
                threshold=one,
                reset_mechanism="zero",
                init_hidden=True,
            )
        )
    network = torch.nn.Sequential(*layers)
    folder.mkdir(exist_ok=True)
    nir.write(folder / "snntorch.nir", export(network, torch.zeros(100)))
    x = np.random.default_rng(0).random((250, 8, 100)) < 0.04
    with torch.no_grad():
        z = [network(torch.as_tensor(step, dtype=torch.float32)).numpy() for step in x]
    np.savez(folder / "snntorch.npz", x=x, z=np.array(z))


def compare(z: np.ndarray, y: np.ndarray, most: int) -> dict[str, Any]:
    """Compare spikes of snnjax and of a reader.

    Args:
        z: Spikes of snnjax (time, batch, neurons).
        y: Spikes of the reader (time, batch, neurons).
        most: Largest shift, in steps.
    """
    results = []
    for shift in range(most + 1):
        a, b = z[shift:] > 0, y[: len(y) - shift] > 0
        same = (a == b).all(axis=0)
        until = np.argmax(a | b, axis=0)[None]  # the first spike of either
        first = np.take_along_axis(a, until, 0)[0] == np.take_along_axis(b, until, 0)[0]
        results.append(
            (
                float((a & b).sum() / a.sum()),
                shift,
                float(same.mean()),
                float(first.mean()),
                float(b.sum() / a.sum()),
            )
        )
    matched, shift, identical, first, ratio = max(results, key=lambda r: (r[0], r[2]))
    rounded = {
        "matched": round(matched, 4),
        "spikes": round(ratio, 4),
        "silent": round(float(1 - (z > 0).any(axis=0).mean()), 4),
    }
    return {"shift": shift, "identical": identical, "until_first": first, **rounded}


def _run(make: Callable[[], Any], x: np.ndarray) -> np.ndarray:
    """Run a torch module step by step and trial by trial.

    There is no batch axis, because NIR's Flatten does not support one.
    """
    torch: Any = importlib.import_module("torch")
    trials = []
    with torch.no_grad():
        for trial in np.moveaxis(x, 1, 0):
            module, state, out = make().double(), None, []
            for step in torch.as_tensor(trial, dtype=torch.float64):
                z, state = module(step) if state is None else module(step, state)
                out.append(z.numpy().copy())
            trials.append(out)
    return np.moveaxis(np.array(trials), 0, 1)


def _nirtorch(cell: str) -> Callable[[Any, np.ndarray], np.ndarray]:
    def run(graph: Any, x: np.ndarray) -> np.ndarray:
        nir, nirtorch = importlib.import_module("nir"), importlib.import_module("nirtorch")
        dt, scheme = float(graph.metadata["dt"]), graph.metadata["scheme"]
        cells = {nir.CubaLIF: lambda node: _cell(node, dt, scheme, cell), nir.Threshold: _threshold}
        return _run(
            lambda: nirtorch.nir_to_torch(
                graph, cells, dtype=importlib.import_module("torch").float64
            ),
            x,
        )

    return run


def _threshold(node: Any) -> Any:
    torch: Any = importlib.import_module("torch")

    class Threshold(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return (x > torch.as_tensor(node.threshold)).to(x.dtype)

    return Threshold()


def _cell(node: Any, dt: float, scheme: str, convention: str) -> Any:
    torch: Any = importlib.import_module("torch")
    values = {
        name: torch.as_tensor(np.asarray(getattr(node, name), np.float64))
        for name in ("tau_mem", "tau_syn", "r", "w_in", "v_threshold", "v_reset")
    }
    decay = (
        (lambda tau: torch.exp(-dt / tau))
        if scheme == "exponential"
        else (lambda tau: 1 - dt / tau)
    )
    lm, ls = decay(values["tau_mem"]), decay(values["tau_syn"])

    class Cell(torch.nn.Module):
        def forward(self, x: Any, state: Any = None) -> Any:
            v, i = (torch.zeros_like(lm),) * 2 if state is None else state
            if convention == "ours":
                z = (v > values["v_threshold"]).to(x.dtype)
                v = (lm * v + (1 - lm) * values["r"] * i) * (1 - z) + values["v_reset"] * z
                return (v > values["v_threshold"]).to(x.dtype), (
                    v,
                    ls * i + (1 - ls) * values["w_in"] * x,
                )
            i = ls * i + (1 - ls) * values["w_in"] * x
            v = lm * v + (1 - lm) * values["r"] * i
            z = (v > values["v_threshold"]).to(x.dtype)
            return z, (v * (1 - z) + values["v_reset"] * z, i)

    return Cell()


def _snntorch(*, reset_delay: bool) -> Callable[[Any, np.ndarray], np.ndarray]:
    def run(graph: Any, x: np.ndarray) -> np.ndarray:
        copy, snntorch = (
            importlib.import_module("copy"),
            importlib.import_module("snntorch.import_nir"),
        )
        for node in graph.nodes.values():
            if type(node).__name__ == "CubaLIF":
                node.tau_mem, node.tau_syn = (
                    tau * (SNNTORCH_DT / graph.metadata["dt"])
                    for tau in (node.tau_mem, node.tau_syn)
                )
                unit = node.tau_mem / SNNTORCH_DT / node.r
                node.r, node.v_threshold, node.v_reset = (
                    node.r * unit,
                    node.v_threshold * unit,
                    node.v_reset * unit,
                )

        def make() -> Any:
            module = snntorch.import_from_nir(copy.deepcopy(graph))
            for part in module.modules():
                if hasattr(part, "reset_delay"):
                    part.reset_delay = reset_delay
                    part.register_forward_hook(
                        lambda _, given, spikes: spikes.to(given[0].dtype)
                    )  # its spikes are float32
            return module

        return _run(make, x)

    return run


def _norse(graph: Any, x: np.ndarray) -> np.ndarray:
    return _run(
        lambda: importlib.import_module("norse.torch").from_nir(
            graph, dt=float(graph.metadata["dt"])
        ),
        x,
    )


READERS: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "nirtorch, ours": _nirtorch("ours"),
    "nirtorch, at once": _nirtorch("at once"),
    "snntorch, as imported": _snntorch(reset_delay=False),
    "snntorch, reset_delay": _snntorch(reset_delay=True),
    "norse": _norse,
}

if __name__ == "__main__":
    modes = {"write": write, "read": read, "back": back}
    if len(sys.argv) != 3 or sys.argv[1] not in modes:
        sys.exit("usage: python -m benchmarks.nir_reader write|read|back FOLDER")
    modes[sys.argv[1]](Path(sys.argv[2]))
