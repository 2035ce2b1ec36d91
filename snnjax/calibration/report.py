"""What calibration says of a layer."""

from __future__ import annotations

from typing import NamedTuple

import jax


class LayerReport(NamedTuple):
    """What calibration did to one layer.

    Attributes:
      sigma_w: standard deviation of each connection's weights.
      quenched_spread: predicted root mean square, over neurons and trials, of the membrane's time mean within a trial.
      sigma_u: the standard deviation that the membrane without reset then has on the batch, with the layer's own spikes.
      silent: the input is silent.   calibrated: False where there are no such weights: the input is silent, mu_u asks for too much, or the
        weights to rescale are all equal. The layer then kept its weights.
      mu_u: the mean that the membrane without reset then has on the batch.
    """

    sigma_w: tuple[jax.Array, ...]
    quenched_spread: jax.Array
    sigma_u: jax.Array
    silent: jax.Array
    calibrated: jax.Array
    mu_u: jax.Array
