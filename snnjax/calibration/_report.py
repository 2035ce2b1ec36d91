"""Reports of the calibrations on the layers of a network."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._check import Scalar
from snnjax._table import Table, report_html, report_text


class GradientReport(NamedTuple):
    """Result of the calibration of the gradient of one layer; scalars.

    Attributes:
        before: Backward gain of the layer before calibration.
        gain: Backward gain of the layer after calibration.
        steepness: First parameter of its surrogate (beta, ...), or the scale of h if the scale was
            adjusted. NaN if the layer's neuron has no surrogate that can be adjusted.
        reached: Whether `gain` is within 10 % of the target; True for the first layer, whose gain
            reaches no other layer.
        target: Target of the backward gain.
    """

    before: jax.Array
    gain: jax.Array
    steepness: jax.Array
    reached: jax.Array
    target: jax.Array


class LayerReport(NamedTuple):
    """Result of the calibration of one layer; scalars.

    Attributes:
        sigma_w: Standard deviation of the weights, one per connection.
        quenched_spread: Predicted root mean square, over neurons and samples, of the membrane's
            mean over time.
        sigma_u: Standard deviation of the membrane without reset on the batch, driven by the input
            and the layer's own spikes.
        silent: Whether the input is silent.
        calibrated: False if no weights reach the targets: the input is silent, |mu_u| is too large,
            or the weights to rescale are all equal. Then the layer keeps its weights.
        mu_u: Mean of the membrane without reset on the batch.
        on_target: Whether `sigma_u` is within 5 % of its target. In a Dalian layer, also whether
            the distance of `mu_u` from its target is within 5 % of the target sigma_u. Typically
            False for small layers (sampling noise of few weights), for layers with mixed time
            constants (one shared scale), for recurrent layers whose spikes still change after the
            last pass, and for Dalian layers with too few inhibitory spikes.
        targets: The targets of sigma_u and mu_u.
        gradient: Result of the calibration of the gradient. None if only the membranes were
            calibrated.
    """

    sigma_w: tuple[jax.Array, ...]
    quenched_spread: jax.Array
    sigma_u: jax.Array
    silent: jax.Array
    calibrated: jax.Array
    mu_u: jax.Array
    on_target: jax.Array
    targets: tuple[Scalar, Scalar]
    gradient: GradientReport | None = None


class RateReport(NamedTuple):
    """Result of `scale_to_rate` for one layer; scalars.

    Attributes:
        gain: Factor by which its weights were multiplied.
        rate: Its rate with the new weights, Hz.
        reached: Whether `rate` is within 5 % of the target.
        target: Target rate, Hz.
    """

    gain: jax.Array
    rate: jax.Array
    reached: jax.Array
    target: Scalar


TOLERANCE = 0.05
"""Largest distance of a layer from its target that counts as on target, relative to sigma_u."""


def near(found: jax.Array, target: Scalar, sigma_u: Scalar) -> jax.Array:
    """Whether `found` is `target` within `TOLERANCE` of sigma_u."""
    return jnp.abs(found - target) <= TOLERANCE * sigma_u


class Of(NamedTuple):
    """The layer that a report describes.

    Attributes:
        name: The name of its class.
        reason: Why such a layer may be off target, and what to do.
    """

    name: str
    reason: str = ""


T = TypeVar("T", LayerReport, GradientReport, RateReport)


class Outcome(NamedTuple, Generic[T]):
    """What the calibration of one layer returns.

    Attributes:
        report: The report on the layer.
        output: The layer's output for its input, (time, batch, ...units).
        reason: Why such a layer may be off target, and what to do.
    """

    report: T
    output: jax.Array
    reason: str = ""


class Reports(Sequence[T], abc.ABC, Generic[T]):
    """Reports on all spiking layers, first to last: a sequence that is printed as a table.

    Texts number the spiking layers from 1, as rates and the probe do.

    Args:
        layers: One report per spiking layer.
        of: The layer of each report.
    """

    title: str
    columns: tuple[str, ...]

    def __init__(self, layers: Sequence[T], of: Sequence[Of]) -> None:
        self.layers, self.of = tuple(layers), tuple(of)

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(
            cls, lambda r: ((r.layers,), r.of), lambda of, children: cls(*children, of)
        )

    @overload
    def __getitem__(self, k: int) -> T: ...
    @overload
    def __getitem__(self, k: slice) -> tuple[T, ...]: ...
    def __getitem__(self, k: int | slice) -> T | tuple[T, ...]:
        return self.layers[k]

    def __len__(self) -> int:
        return len(self.layers)

    @abc.abstractmethod
    def _finding(self, layer: str, reason: str, report: T) -> str | None:
        """One sentence on a layer that is off target, for example "layer 1"; None if it is not."""

    @abc.abstractmethod
    def _row(self, k: int, report: T) -> tuple[str, ...]:
        """The numbers of layer k, counted from 1."""

    @property
    def _plain(self) -> bool:
        """Whether all values are numbers of one network: not traced, and not batched by vmap."""
        leaves = map(_check.concrete, jax.tree.leaves(self.layers))
        return all(leaf is not None and leaf.ndim == 0 for leaf in leaves)

    def problems(self) -> list[str]:
        """One sentence per layer that is off target; empty under jit and vmap."""
        each = enumerate(zip(self.of, self.layers, strict=True), 1) if self._plain else ()
        found = (self._finding(f"layer {k}", of.reason, report) for k, (of, report) in each)
        return [line for line in found if line is not None]

    def findings(self) -> list[str]:
        """The problems, or a single sentence if every layer is on target."""
        if not self._plain:
            return ["the numbers are traced, or they belong to several networks"]
        return self.problems() or ["every layer is on target"]

    def table(self) -> Table:
        """The numbers, one row per layer."""
        each = enumerate(zip(self.of, self.layers, strict=True), 1)
        rows = [(f"{k} {of.name}", *self._row(k, report)) for k, (of, report) in each]
        return Table(self.title, ("layer", *self.columns), rows)

    def tables(self) -> list[Table]:
        """All tables that are printed."""
        return [self.table()]

    def __repr__(self) -> str:
        found = "; ".join(self.findings())
        return f"<{type(self).__name__} of {len(self)} layers: {found}; print it for the numbers>"

    def __str__(self) -> str:
        return report_text(self.findings(), self.tables())

    def _repr_html_(self) -> str:
        return report_html(self.findings(), self.tables())


class GradientReports(Reports[GradientReport]):
    """Results of `calibrate_gradient`, layer by layer."""

    title = "backward gain of each layer to the spiking layer below"
    columns = ("gain before", "after", "steepness")

    def _finding(self, layer: str, reason: str, report: GradientReport) -> str | None:
        if report.reached:
            return None
        gain, target = float(report.gain), float(report.target)
        off = f"{layer} has the backward gain {gain:.3g}; the target is {target:.3g}"
        if math.isnan(float(report.steepness)):
            return f"{off}: its surrogate is no SpikeFunction, whose steepness could be adjusted"
        return (
            f"{off}: the search within a factor of 50 of the original value ended at "
            f"{float(report.steepness):.3g}; try another surrogate or another `adjust` in "
            "GradientTarget"
        )

    def _row(self, k: int, report: GradientReport) -> tuple[str, ...]:
        gains = (report.before, report.gain)
        shown = ("-", "-") if k == 1 else tuple(map(_number, gains))  # layer 1 has none below
        return *shown, _number(report.steepness)


class LayerReports(Reports[LayerReport]):
    """Results of `calibrate`, layer by layer."""

    title = "membrane without reset of each layer"
    columns = ("std U", "target", "mean U", "target", "spread", "std w")

    def _finding(self, layer: str, reason: str, report: LayerReport) -> str | None:
        sigma_u, mu_u = report.targets
        if report.silent:
            return f"{layer} kept its weights: its input is silent"
        if not report.calibrated:
            return infeasible(layer, report.targets)
        if not report.on_target:
            return (
                f"{layer} has sigma_u = {float(report.sigma_u):.3g} and mu_u = "
                f"{float(report.mu_u):.3g} on these inputs; the targets are "
                f"sigma_u = {sigma_u}, mu_u = {mu_u}: {reason}"
            )
        return None

    def problems(self) -> list[str]:
        return super().problems() + self.gradient().problems()

    def tables(self) -> list[Table]:
        gradient = self.gradient()
        return [self.table(), gradient.table()] if len(gradient) else [self.table()]

    def gradient(self) -> GradientReports:
        """The reports on the gradients; empty if only the membranes were calibrated."""
        found = [report.gradient for report in self.layers if report.gradient is not None]
        return GradientReports(found, self.of[: len(found)])

    def _row(self, k: int, report: LayerReport) -> tuple[str, ...]:
        sigma_u, mu_u = report.targets
        membrane = (report.sigma_u, sigma_u, report.mu_u, mu_u, report.quenched_spread)
        return *(_number(v) for v in membrane), ", ".join(_number(w) for w in report.sigma_w)


class RateReports(Reports[RateReport]):
    """Results of `scale_to_rate`, layer by layer."""

    title = "rate of each layer"
    columns = ("rate Hz", "target", "gain")

    def _finding(self, layer: str, reason: str, report: RateReport) -> str | None:
        if report.reached:
            return None
        return (
            f"{layer} fires at {float(report.rate):.3g} Hz; the target is "
            f"{float(report.target):.3g} Hz: no weights within a factor of 100 reach it, or its "
            "input is silent"
        )

    def _row(self, k: int, report: RateReport) -> tuple[str, ...]:
        return tuple(_number(v) for v in (report.rate, report.target, report.gain))


def infeasible(layer: str, targets: tuple[Scalar, Scalar]) -> str:
    """Explains why a layer, for example "layer 1", has no weights for its targets."""
    sigma_u, mu_u = targets
    return (
        f"{layer} has no weights for mu_u = {mu_u}, sigma_u = {sigma_u}: the mean alone "
        "would move the membrane by more than sigma_u (raise sigma_u or lower |mu_u|), the "
        "weights to rescale are all equal, or the input is not finite"
    )


def _number(value: Scalar) -> str:
    """The number with three digits; "..." if it is traced or an array."""
    known = _check.concrete(value)
    if known is None or known.ndim > 0:
        return "..."
    return f"{float(known):.3g}"
