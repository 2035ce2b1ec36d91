"""The results of the probe as numbers, sentences and tables. `snnjax.diagnostics` measures them."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from snnjax._costs import Costs
from snnjax._table import WIDTH, Table, report_html, report_text

SATURATED_HZ = 100.0
_LARGE = 0.01  # recommended size of the first update, relative to the weights


class LayerProbe(NamedTuple):
    """Measurements on one layer, floats (arrays under jit and vmap).

    `snnjax.diagnostics` gives the formulas.

    Attributes:
        input_rate: Mean rate of its inputs, Hz.
        rate: Mean rate of its neurons, Hz.
        rates: 5 %, 50 % and 95 % percentile of the rate over neurons, Hz.
        silent: Share of neurons that never spike.
        saturated: Share of neurons that fire above `SATURATED_HZ`.
        mu_u: Mean of the membrane without reset. This and the next five are None for layers that
            are not derived from `snnjax.nn.Synaptic`.
        sigma_u: Its standard deviation in time.
        predicted_mu_u: The mean by the paper's formula. NaN if the layer's input has negative
            values, for which there is no formula.
        predicted_sigma_u: The standard deviation by the paper's formula, or NaN.
        xi: (theta - mu_u) / sigma_u.
        spread: Standard deviation across neurons of the membrane's mean.
        grad_z: Mean |dL/dz| over the layer's spikes.
        grad_w: Mean |dL/dw| over its parameters.
        update: Mean |dw| of the optimizer's first step.
        populations: Mean rate of each population, Hz, by name.
        gain: Backward gain; NaN for the first layer.
        agreement: Cosine between dL/dw of the two halves of the batch.
        bounds: Root mean square of each bound's gradient, over that of the loss.
        step: Root mean square of the first update, over that of the weights.
        memory: 1 if the activity depends on the input only, 0 if single spikes change it as much as
            another input does.
    """

    input_rate: Any
    rate: Any
    rates: Any
    silent: Any
    saturated: Any
    mu_u: Any
    sigma_u: Any
    predicted_mu_u: Any
    predicted_sigma_u: Any
    xi: Any
    spread: Any
    grad_z: Any
    grad_w: Any
    update: Any
    populations: Mapping[str, Any]
    gain: Any
    agreement: Any
    bounds: Any
    step: Any
    memory: Any


class Probe(NamedTuple):
    """The result of `probe`. `print` shows the findings, then two tables.

    Attributes:
        layers: One `LayerProbe` per spiking layer, first to last.
        readout_grad_w: Mean |dL/dw| of the readout.
        readout_update: Mean |dw| of the readout in the optimizer's first step.
        loss: Loss on the batch.
        accuracy: Accuracy on the batch; None if the targets are not classes.
        costs: Spikes and synaptic operations of an inference; None if they were not counted.
    """

    layers: tuple[LayerProbe, ...]
    readout_grad_w: Any
    readout_update: Any
    loss: Any
    accuracy: Any
    costs: Costs | None = None

    def findings(self) -> list[str]:
        """Problems of the layers, and what to do.

        Returns:
            One sentence per unhealthy layer, on its first problem. If every layer is healthy, a
            single sentence says so.
        """
        largest = max((p.grad_w for p in self.layers), default=0.0)
        clearest = max((p.agreement for p in self.layers), default=0.0)
        firsts = [
            f"layer {k}: {problem}"
            for k, p in enumerate(self.layers, start=1)
            for problem in itertools.islice(_problems(p, largest, clearest, k), 1)
        ]
        return firsts or ["every layer is healthy"]

    def table(self) -> Table:
        """Activity and membranes, one row per layer.

        If a layer has several populations, each population has a column with its mean rate.
        """
        several = [p.populations for p in self.layers if len(p.populations) > 1]
        names = dict.fromkeys(itertools.chain(*several))
        columns = ("rate Hz", *(f"{name} Hz" for name in names), "5/50/95 %", "silent", "saturated")
        membrane = ("mean U", "std U", "predicted", "xi", "spread")
        rows = []
        for k, p in enumerate(self.layers, start=1):
            found = [p.populations.get(name) for name in names]
            rates = (f"{p.rate:.1f}", *("" if rate is None else f"{rate:.1f}" for rate in found))
            percentiles = "/".join(f"{r:.1f}" for r in p.rates)
            shares = (f"{100 * share:.0f} %" for share in (p.silent, p.saturated))
            rows.append((str(k), *rates, percentiles, *shares, *_of_membrane(p)))
        accuracy = "" if self.accuracy is None else f", accuracy {100 * self.accuracy:.1f} %"
        return Table(f"loss {self.loss:.3f}{accuracy}", ("layer", *columns, *membrane), rows)

    def gradient_table(self) -> Table:
        """Gradients and the first update, one row per layer and one for the readout."""
        magnitudes = ("|dL/dz|", "|dL/dw|", "|dw|")
        columns = ("layer", *magnitudes, "gain", "agreement", "bounds", "step", "memory")
        rows = []
        for k, p in enumerate(self.layers, start=1):
            values = (p.gain, p.agreement, p.memory)
            gain, agreement, memory = ("" if math.isnan(v) else f"{v:.2f}" for v in values)
            bounds = ", ".join(f"{b:.2g}" for b in p.bounds)
            sizes = (f"{v:.1e}" for v in (p.grad_z, p.grad_w, p.update))
            rows.append((str(k), *sizes, gain, agreement, bounds, f"{100 * p.step:.2g} %", memory))
        last = (f"{self.readout_grad_w:.1e}", f"{self.readout_update:.1e}")
        rows.append(("readout", "", *last, "", "", "", "", ""))
        return Table("gradients", columns, rows)

    def __str__(self) -> str:
        text = report_text(self.findings(), [self.table(), self.gradient_table()])
        return text if self.costs is None else f"{text}\n\n{textwrap.fill(str(self.costs), WIDTH)}"

    def _repr_html_(self) -> str:
        page = report_html(self.findings(), [self.table(), self.gradient_table()])
        return page if self.costs is None else f"{page}<p>{self.costs}</p>"


def _of_membrane(p: LayerProbe) -> tuple[str, ...]:
    """The columns of the table on the membrane; empty where it is not known."""
    if p.mu_u is None:
        return ("",) * 5
    numbers = (p.mu_u, p.sigma_u, p.predicted_mu_u, p.predicted_sigma_u, p.xi, p.spread)
    mean, std, by_theory, std_by_theory, xi, spread = (f"{v:.2f}" for v in numbers)
    predicted = "" if math.isnan(p.predicted_sigma_u) else f"{by_theory}, {std_by_theory}"
    return mean, std, predicted, xi, spread


def _problems(p: LayerProbe, largest_grad_w: float, clearest: float, k: int) -> Iterator[str]:
    """Yield the problems of a layer, the most important first, and what to do.

    Args:
        p: The layer.
        largest_grad_w: The largest `grad_w` of all layers.
        clearest: The largest `agreement` of all layers.
        k: Number of the layer, from 1.
    """
    never = f"{100 * p.silent:.0f} % of the neurons never spike"
    often = f"{100 * p.saturated:.0f} % of the neurons fire above {SATURATED_HZ:.0f} Hz"
    if p.mu_u is None:  # a layer whose connections are unknown: only its spikes say something
        if p.silent >= 0.5:
            yield f"{never}; increase its weights, or lower its threshold"
        if p.saturated >= 0.2:
            yield f"{often}; decrease its weights, or raise its threshold"
        if p.grad_w == 0:
            yield "its gradient is 0; give its spikes a surrogate derivative (snnjax.surrogate)"
    else:
        counts = not math.isnan(p.predicted_sigma_u)  # a rate says nothing about other inputs
        inputs = f"inputs at {p.input_rate:.1f} Hz give" if counts else "its inputs give"
        membrane = f"{inputs} sigma_u {p.sigma_u:.2f} (xi {p.xi:.1f})"
        if not all(math.isfinite(v) for v in (p.input_rate, p.mu_u, p.sigma_u, p.grad_w)):
            yield "its membrane or gradient is not finite; look for NaN or overflow in its input"
        if p.input_rate == 0 and k == 1:
            yield "the network's input is silent; look at the data"
        if p.input_rate == 0:
            yield "its inputs are silent, so it cannot learn; correct the layer below first"
        if p.silent >= 0.5:
            yield f"{never}: {membrane}; {_cause(p, 'calibrate, or raise sigma_u')}"
        if p.saturated >= 0.2:
            yield f"{often}: {membrane}; {_cause(p, 'calibrate, or lower sigma_u')}"
        if p.spread > 1.2 * p.sigma_u:
            more = f"{p.spread:.2f}, more than it fluctuates ({p.sigma_u:.2f})"
            yield f"constant drive differs between neurons by {more}; calibrate with balance"
        if not 0.45 < p.xi < 4:  # sigma_u up to about 2 still trains (figure 4 of the paper)
            ratio, target = p.sigma_u / p.predicted_sigma_u, "calibrate"
            if not counts:
                target = "calibrate on data"
            elif not 2 / 3 < ratio < 1.5:
                times = f"{ratio:.2g} times what the formula predicts for Poisson input"
                target = f"{times}; calibrate on data"
            regime = f"far from the fluctuation-driven regime (xi 1 to 3): {membrane}"
            yield f"{regime}, mean {p.mu_u:.2f}; {target}"
        if p.grad_w < 1e-4 * largest_grad_w:
            share = f"{p.grad_w / largest_grad_w:.1g} of the largest layer's"
            yield f"its gradient is {share}: it will not learn; calibrate the gradient"
    if not math.isnan(p.gain) and not 0.5 < p.gain < 2:
        cure = f"calibrate the gradient, or take a {'wider' if p.gain < 1 else 'steeper'} surrogate"
        yield f"it multiplies the gradient by {p.gain:.2g} on the way down; {cure}"
    # if the agreement is low in all layers, the batch is too small for a statement
    if clearest > 0.3 and p.agreement < 0.05:
        halves = f"agreement {p.agreement:.2f} between the halves of the batch"
        cure = "calibrate the gradient, or take larger batches"
        yield f"its gradient is noise ({halves}, {clearest:.2f} elsewhere); {cure}"
    if any(share > 1 for share in p.bounds):
        cure = "limit it by a share, or lower its share or its strength"
        yield f"a bound's gradient is {max(p.bounds):.2g} times the loss's; {cure}"
    if p.step > 0.02:
        cure = f"a learning rate {_LARGE / p.step:.1g} times as large would move them by 1 %"
        yield f"the first update moves its weights by {100 * p.step:.2g} %; {cure}"


def _cause(p: LayerProbe, otherwise: str) -> str:
    """The cause of a silent or saturated layer (mean, spread or fluctuations), and what to do."""
    if abs(p.mu_u) > max(p.sigma_u, 0.5):
        mean = f"the mean of the membrane is {p.mu_u:.2f}"
        return f"{mean}: bring the weights' mean to 0, or calibrate"
    if p.spread > 1.2 * p.sigma_u:
        return f"constant drive differs between neurons by {p.spread:.2f}; calibrate with balance"
    return otherwise
