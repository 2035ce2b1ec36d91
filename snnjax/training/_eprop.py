r"""Online learning with e-prop: a gradient from one pass over a trial, without stored traces.

Backpropagation through time stores what every layer did in every step. E-prop carries a trace per
synapse forward in time instead, so its memory does not grow with the number of steps. For neurons
with the states s_j and the spikes z_j, weights w_ij from inputs p_i, and a readout o:

    s_j[t+1], z_j[t] = step(s_j[t], drive_j[t]),   drive_j[t] = sum_i w_ij p_i[t]
    eps_ij[t+1] = ds_j[t+1]/ds_j[t] eps_ij[t] + ds_j[t+1]/ddrive_j[t] p_i[t]   eligibility vector
    e_ij[t]     = dz_j[t]/ds_j[t] eps_ij[t]                                    eligibility trace
    f_ij[t]     = e_ij, filtered as the readout filters its drive
    L_j[t]      = sum_k B_jk dE[t]/do_k[t]                                     learning signal
    dE/dw_ij    = sum_t L_j[t] f_ij[t]

p are the inputs x[t], the layer's own spikes z[t] if it is recurrent, and 1 for a bias. The loss
E = sum_t E[t] is a sum over steps. Both lines of eps and e are the tangent of `Neuron.step`, so
every neuron model with one current works. The tangent is that of one neuron: the effect of its
spikes on other neurons is left out. For the weights of the readout, L is dE[t]/do, and f its
filtered inputs.

The gradient equals that of backpropagation through time

    for the readout, always
    for the last hidden layer, if it is not recurrent and the feedback is symmetric

and is an approximation elsewhere. The feedback B of a hidden layer is

    symmetric    the kernel of the readout. Errors reach lower layers through the kernels in between
                 and dz/du of the layers in between, at the same step
    random       drawn once
    adaptive     drawn, and trained with the gradient that the kernel of a readout of this layer
                 would have. For the last hidden layer this is the gradient of the readout. With
                 weight decay of both (`optax.adamw`), B approaches the kernel of the readout

Source: Bellec et al. (2020), doi 10.1038/s41467-020-17236-y. There, all neurons have connections to
the readout. The tangent of a step, and feedback through several layers, are not in the paper.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax._sparse import EventRaster, as_dense
from snnjax._timed import untimed
from snnjax.dynamics import LeakyIntegrator
from snnjax.dynamics._readout import LeakyIntegratorState
from snnjax.initializers import kaiming_normal
from snnjax.losses import EveryStep, Loss, Target
from snnjax.nn import Activity, Layer, NetworkOutput, Readout, Sequential, SpikingDense, Synaptic
from snnjax.nn._neuron_layer import Fixed
from snnjax.nn._per_step import layer_name

Feedback = Literal["symmetric", "random", "adaptive"]
WEIGHTS = {"kernel", "recurrent_kernel", "bias"}
"""The parameters of a layer that e-prop trains."""


class EProp(Sequential):
    """A network whose gradient is computed online, with e-prop.

    It is a `Sequential` of `SpikingDense` layers, recurrent or not, and a `Readout`. `fit`,
    `Trainer` and ensembles train it with `gradient`. Memory grows with batch times synapses, and
    not with the number of steps; only the input and the trace of the readout do.

    Args:
        *layers: At least one `SpikingDense`, and a `Readout` of leaky integrators with one time
            constant for all outputs. Weights and biases are trained, parameters of neurons are not.
        feedback: How errors of the readout reach the hidden layers: "symmetric", "random" or
            "adaptive".
        rngs: `nnx.Rngs`, stream `params`, for feedback weights that are drawn.

    Parameters: those of the layers; `feedback_kernels[k]` (units, classes) of hidden layer k, if
    they are drawn. Random ones do not change in training.

    Raises:
        ValueError: A layer cannot be trained by e-prop, or `feedback` is another word.
        TypeError: `rngs` is missing.

    >>> from snnjax.losses import CrossEntropy
    >>> from snnjax.nn import FluctuationDriven
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), recurrent=True, rngs=rngs)
    >>> network = EProp(hidden, Readout(16, 2, rngs=rngs))
    >>> x, labels = jnp.ones((50, 3, 20)), jnp.array([0, 1, 1])
    >>> (loss, output), gradient = network.gradient(x, labels, EveryStep(CrossEntropy()))
    >>> loss.shape, output.readout.shape, gradient["layers"][0]["kernel"][...].shape
    ((3,), (50, 3, 2), (20, 16))
    """

    def __init__(
        self, *layers: nnx.Module, feedback: Feedback = "symmetric", rngs: nnx.Rngs | None = None
    ) -> None:
        super().__init__(*layers)
        for k, layer in enumerate(self.layers):
            if reason := _unsuitable(layer, last=k == len(self.layers) - 1):
                raise ValueError(f"layers[{k}] ({layer_name(layer)}) {reason}")
        if len(self.layers) < 2:
            raise ValueError("layers must hold a SpikingDense and a Readout, got one layer")
        self.feedback = _check.one_of("feedback", feedback, get_args(Feedback))
        kernels: list[nnx.Param] = []
        if feedback != "symmetric":
            if not isinstance(rngs, nnx.Rngs):
                needed = f"rngs must be a flax.nnx.Rngs for {feedback} feedback, which is drawn"
                raise TypeError(f"{needed}, for example nnx.Rngs(0), got {rngs!r}")
            kind, (hidden, readout) = Fixed if feedback == "random" else nnx.Param, _layers(self)
            shapes = [(layer.units, readout.units) for layer in hidden]
            draw, dtype = kaiming_normal(), readout.kernel[...].dtype
            kernels = [kind(draw(rngs.params(), shape, dtype)) for shape in shapes]
        self.feedback_kernels = nnx.List(kernels)

    def gradient(
        self, x: jax.Array | EventRaster, target: Target, loss: Loss
    ) -> tuple[tuple[jax.Array, NetworkOutput], nnx.State]:
        """The gradient of the mean loss of a batch, from one pass over its steps.

        Args:
            x: Inputs (time, batch, in_features).
            target: Targets, as `loss` takes them.
            loss: An `EveryStep`: the mean over steps of another loss.

        Returns:
            The loss of each sample (batch,) and the output of the network, whose activity has spike
            counts in place of spikes; and the gradient, in the structure of
            `nnx.state(network, nnx.Param)`.

        Raises:
            TypeError: `loss` is not an `EveryStep`.
            ValueError: The input or the target does not fit.
        """
        of_steps = check_loss(loss)
        _check.time_major("x", x, features=_layers(self)[0][0].in_features)
        run, readout = _run(self, as_dense(x), target, of_steps)
        counts = tuple(traces.counts[None] for traces in run.hidden)
        output = NetworkOutput(readout, Activity(counts, steps=len(readout)))
        return (run.loss, output), _gradient_of(self, run.hidden)


def check_loss(loss: object) -> EveryStep:
    """Return the loss if it is a mean over steps.

    Raises:
        TypeError: It is another loss.
    """
    if not isinstance(loss, EveryStep):
        needed = "loss must be a mean over steps for e-prop, such as EveryStep(CrossEntropy())"
        raise TypeError(f"{needed}, got {loss!r}")
    return loss


def _unsuitable(layer: Layer, *, last: bool) -> str:
    """Why e-prop cannot train a layer, or ""."""
    if last:
        if not isinstance(layer, Readout) or type(layer.neuron) is not LeakyIntegrator:
            return "must be a Readout of a LeakyIntegrator, as the last layer of an EProp network"
        if any(jnp.ndim(tau) for tau in (layer.neuron.tau_mem, layer.neuron.tau_syn)):
            return "must have the same time constants for all outputs, got one per output"
    elif not isinstance(layer, SpikingDense):
        return "must be a SpikingDense, as all hidden layers of an EProp network"
    state = jax.eval_shape(lambda: layer.initial_state(1))
    if not all(jnp.issubdtype(s.dtype, jnp.floating) for s in jax.tree.leaves(state)):
        got = f"got {', '.join(str(s.dtype) for s in jax.tree.leaves(state))}"
        return f"must have neurons whose state is floating point, which has derivatives, {got}"
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    found = jax.tree_util.tree_leaves_with_path(nnx.state(layer, nnx.Param), is_leaf=is_variable)
    names = [
        jax.tree_util.keystr(at, simple=True, separator=".")
        for at, variable in found
        if not isinstance(variable, Fixed)
    ]
    more = ", ".join(name for name in names if name not in WEIGHTS)
    needed = "must have no trained parameters but weights and a bias in an EProp network"
    return f"{needed}, got {more}" if more else ""


class _Traces(NamedTuple):
    """What a hidden layer carries from step to step. n = number of inputs p of a neuron.

    Attributes:
        state: State of the neurons, arrays (batch, units).
        eligibility: eps, the tangent of the state, arrays (n, batch, units).
        filtered: State of the readout's filter of e, arrays (n, batch, units).
        heard: State of the readout's filter of the spikes and of 1, arrays (batch, units + 1).
        gradient: dE/dw, (n, units).
        readout_gradient: dE/dw of the kernel and bias of a readout of this layer,
            (units + 1, classes).
        counts: Spikes so far, (batch, units).
    """

    state: Any
    eligibility: PyTree
    filtered: LeakyIntegratorState
    heard: LeakyIntegratorState
    gradient: jax.Array
    readout_gradient: jax.Array
    counts: jax.Array


class _Run(NamedTuple):
    """What a network carries from step to step.

    Attributes:
        t: Number of the step.
        hidden: Traces of the hidden layers.
        readout: State of the readout.
        loss: Loss of each sample so far, (batch,).
    """

    t: jax.Array
    hidden: tuple[_Traces, ...]
    readout: Any
    loss: jax.Array


def _layers(network: EProp) -> tuple[list[SpikingDense], Readout]:
    """The hidden layers, and the readout."""
    *hidden, readout = network.layers
    return cast("list[SpikingDense]", hidden), cast("Readout", readout)


def _start(network: EProp, batch_size: int) -> _Run:
    hidden, readout = _layers(network)
    *states, of_readout = network.initial_state(batch_size)
    dtype = jax.tree.leaves(of_readout)[0].dtype
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    # the filter is linear; the trace of the readout itself may start at another value
    still = lambda *shape: jax.tree.map(jnp.zeros_like, readout.neuron.initial_state(shape, dtype))

    def start(layer: SpikingDense, state: Any) -> _Traces:
        units = layer.units
        n = layer.in_features + units * layer.recurrent + (layer.bias is not None)
        return _Traces(
            state=state,
            eligibility=jax.tree.map(lambda s: jnp.zeros((n, *s.shape), s.dtype), state),
            filtered=still(n, batch_size, units),
            heard=still(batch_size, units + 1),
            gradient=zeros(n, units),
            readout_gradient=zeros(units + 1, readout.units),
            counts=zeros(batch_size, units),
        )

    traces = tuple(start(layer, state) for layer, state in zip(hidden, states, strict=True))
    return _Run(jnp.zeros((), jnp.int32), traces, of_readout, zeros(batch_size))


def _run(network: EProp, x: jax.Array, target: Target, loss: EveryStep) -> tuple[_Run, jax.Array]:
    """Run all steps. Returns what the network carries after the last one, and the readout."""
    wanted, lengths = untimed(target)
    stepwise, num_steps = loss.stepwise(wanted, len(x)), len(x)
    lengths = jnp.full(x.shape[1], num_steps) if lengths is None else lengths
    hidden, readout = _layers(network)

    def body(run: _Run, at: tuple[jax.Array, jax.Array | None]) -> tuple[_Run, jax.Array]:
        below, own_target = at
        during = run.t < lengths
        moved: list[_Moved] = []
        for layer, traces in zip(hidden, run.hidden, strict=True):
            moved.append(_move(layer, readout.neuron, traces, below))
            below = moved[-1].z
        state, o = readout.step(run.readout, below)

        def share(o: jax.Array) -> tuple[jax.Array, jax.Array]:
            """E[t], and what each sample adds to its loss in this step."""
            each = loss.at(o, wanted if own_target is None else own_target)
            each = jnp.where(during, each / lengths, 0).astype(o.dtype)
            return each.mean(), each

        error, each = jax.grad(share, has_aux=True)(o)
        signals = _signals(network, error, [m.slope for m in moved])
        learned = tuple(
            m.traces._replace(
                gradient=m.traces.gradient + jnp.einsum("nbu,bu->nu", m.filtered, signal),
                readout_gradient=m.traces.readout_gradient + m.heard.T @ error,
                counts=m.traces.counts + during[:, None] * m.z,
            )
            for m, signal in zip(moved, signals, strict=True)
        )
        return _Run(run.t + 1, learned, state, run.loss + each), o

    return jax.lax.scan(body, _start(network, x.shape[1]), (x, wanted if stepwise else None))


class _Moved(NamedTuple):
    """A hidden layer after a step.

    Attributes:
        traces: Traces with the next states.
        z: Spikes, (batch, units).
        slope: dz/du, (batch, units).
        filtered: f, (n, batch, units).
        heard: The spikes and 1, filtered as the readout filters its drive, (batch, units + 1).
    """

    traces: _Traces
    z: jax.Array
    slope: jax.Array
    filtered: jax.Array
    heard: jax.Array


def _move(layer: SpikingDense, readout: LeakyIntegrator, traces: _Traces, x: jax.Array) -> _Moved:
    """Advance a hidden layer and its traces by one step with the input x (batch, in_features)."""
    neuron, state = layer.neuron, traces.state
    silent = jnp.zeros_like(traces.counts)
    _, z = neuron.step(state, silent)  # the spikes do not depend on the drive
    drive = layer.whole_drive(x, z)
    one = jnp.ones((len(z), 1), z.dtype)
    own = ([z] if layer.recurrent else []) + ([] if layer.bias is None else [one])
    p = jnp.concatenate([x.astype(z.dtype), *own], axis=-1)

    def tangent(eps: PyTree, dp: jax.Array) -> tuple[Any, jax.Array]:
        return jax.jvp(neuron.step, (state, drive), (eps, dp))[1]

    # one input of all neurons at a time: the state is the same for all inputs
    each = lambda eps, p_i: tangent(eps, jnp.broadcast_to(p_i[:, None], drive.shape))
    eligibility, e = jax.vmap(each)(traces.eligibility, p.T.astype(drive.dtype))
    # the membrane is the first variable of a state
    u, *others = jax.tree.leaves(state)
    along_u = [jnp.ones_like(u), *map(jnp.zeros_like, others)]
    _, slope = tangent(jax.tree.unflatten(jax.tree.structure(state), along_u), silent)
    of_filter, f = readout.step(traces.filtered, e)
    of_heard, heard = readout.step(traces.heard, jnp.concatenate([z, one], axis=-1))
    after, _ = neuron.step(state, drive)
    moved = {"state": after, "eligibility": eligibility, "filtered": of_filter, "heard": of_heard}
    return _Moved(traces._replace(**moved), z, slope, f, heard)


def _signals(network: EProp, error: jax.Array, slopes: list[jax.Array]) -> list[jax.Array]:
    """L of each hidden layer, (batch, units), from dE[t]/do (batch, classes)."""
    if network.feedback_kernels:
        return [error @ kernel[...].T for kernel in network.feedback_kernels]
    (_, *above), readout = _layers(network)
    signals = [error @ readout.kernel[...].T]
    for layer, slope in zip(reversed(above), reversed(slopes[1:]), strict=True):
        signals.append((signals[-1] * slope) @ layer.kernel[...].T)
    return signals[::-1]


def _gradient_of(network: EProp, hidden: tuple[_Traces, ...]) -> nnx.State:
    """The gradient in the structure of the parameters."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    found = nnx.merge(graphdef, jax.tree.map(jnp.zeros_like, params), rest)

    def put(layer: Synaptic, gradient: jax.Array) -> None:
        start = 0
        for param in (layer.kernel, layer.recurrent_kernel, layer.bias):
            if param is not None:
                rows = param.shape[0] if param.ndim == 2 else 1
                part = gradient[start : start + rows].reshape(param.shape)
                param[...] = part.astype(param.dtype)
                start += rows

    layers, readout = _layers(found)
    for layer, traces in zip(layers, hidden, strict=True):
        put(layer, traces.gradient)
    put(readout, hidden[-1].readout_gradient)
    if network.feedback == "adaptive":
        for kernel, traces in zip(found.feedback_kernels, hidden, strict=True):
            kernel[...] = traces.readout_gradient[:-1].astype(kernel.dtype)
    return nnx.state(found, nnx.Param)
