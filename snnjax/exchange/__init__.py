r"""Exchange with other tools.

Networks are exchanged as NIR, events as tonic's structured arrays, parameters as plain files.

The same neuron in snnjax and in NIR, the Neuromorphic Intermediate Representation:

NIR's CubaLIF (CubaLI: without threshold and reset) is continuous in time:

    tau_syn dI/dt = -I + w_in S
    tau_mem dv/dt = v_leak - v + r I
    z = 1 and v = v_reset where v > v_threshold

snnjax's LIF is on a grid of dt, with ls = exp(-dt/tau_syn) and lm = exp(-dt/tau_mem):

    i[t+1] = ls i[t] + drive[t]
    u[t+1] = reset(lm u[t] + (1 - lm) i[t], z[t])
    z[t]   = 1 if u[t] > theta

A NIR graph has no time step. Its reader chooses the time step and the integration scheme. Suppose
that each equation is solved over a step with its input fixed at the value from the start of the
step, and that S is 1 during the step of a spike. Then

    I[t+1] = ls I[t] + (1 - ls) w_in S[t]
    v[t+1] = lm v[t] + (1 - lm)(v_leak + r I[t])

These are exactly our equations for drive = W S and

    w_in = 1 / (1 - ls)    r = 1    v_leak = 0    v_threshold = theta    v_reset = 0 or u_reset
    tau_syn, tau_mem unchanged

This is the scheme "exponential". A reader that takes Euler steps has 1 - dt/tau in place of
exp(-dt/tau). For it, the scheme "euler" writes, with w_in and r as above,

    tau_nir = dt / (1 - exp(-dt/tau))

so that 1 - dt/tau_nir = exp(-dt/tau), at this dt only.

Other nodes:

    LIF         tau dv/dt = v_leak - v + r I; written for `Leaky`, with r = 1 and v_leak = 0
    IF          dv/dt = r I; written for `IF`, with r = 1. Spikes are pulses of area 1, as in
                sinabs: a spike through the weight w raises v by r w, at every dt
    Affine, Conv1d, Conv2d    their bias is the layer's bias; in a loop, it is added to it
    v_leak      of LIF and LI is a bias: both are a constant drive
    Scale       becomes part of the weights before or after it
    SumPool2d   `Pool(kind="sum")`: counts. For spikes with a Threshold in [0, 1) after it, it is
                `Pool(kind="max")`
    Threshold   of other values: a layer that compares, with the surrogate derivative of SuperSpike
    Delay       before weights, also in a loop: `Delays` of units, rounded to whole steps
    Flatten     before or after weights; before the Output it is left out, because our outputs have
                the shape (*spatial, channels)
    NIRGraph    as a node: its nodes take its place

Time step and scheme are in the graph's metadata, `dt` (s) and `scheme`. Neither scheme decides the
following points, and readers differ in them:

    order    We use i[t] for u[t+1] and u[t+1] for z[t+1]. The response to a spike that arrives at
             step t is at t + 2 at the earliest. A reader that updates I, v and z one after the
             other in the same step responds at t. Without recurrence this is a shift of two steps
             per layer, and the spikes are the same.
    reset    NIR has only a value, v_reset. Many networks are trained with a reset by subtraction
             and written with v_reset = 0: `from_nir(graph, reset="subtractive")` restores it.
             We reset the membrane that the step after the spike would have reached: u[t+1] = 0 for
             any i[t]. A reader that sets v to v_reset at once and adds the current in its next step
             is one step earlier after each spike. This is more than a shift. In continuous time
             subtracting theta is the same as a reset to 0, and it is written as a reset to 0. The
             metadata has the original reset.
    charge   w_in is for spikes that last one step. A reader that treats spikes as Dirac pulses must
             give them the area dt. Some readers add w_in itself to I. For them spikes count w_in
             times as much as for us.

Arrays: NIR has features before positions, (C, *spatial), and weights (out, in, *sizes). Ours are
(*spatial, C) and (*sizes, in, out). The inputs of weights after a Flatten are reordered, so that
both flattenings mean the same.

For an exact round trip a neuron's metadata holds what NIR cannot represent: the parameters as
snnjax stores them (one number or one per neuron, logarithms if they are trained), the surrogate
derivative, and the initial value of the readout. The metadata is used only if it agrees with the
node's own values.

Source: Pedersen et al. (2024), Neuromorphic intermediate representation, doi
10.1038/s41467-024-52259-9.
"""

from snnjax.exchange._nir_export import nir_writer, to_nir
from snnjax.exchange._nir_files import load_nir, save_nir
from snnjax.exchange._nir_import import from_nir
from snnjax.exchange._parameters import load_parameters, save_parameters
from snnjax.exchange._tonic import from_tonic, to_tonic

__all__ = [
    "to_nir",
    "from_nir",
    "save_nir",
    "load_nir",
    "nir_writer",
    "save_parameters",
    "load_parameters",
    "to_tonic",
    "from_tonic",
]
