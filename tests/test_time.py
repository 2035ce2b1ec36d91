import jax
import numpy as np
import pytest

from snnjax._time import decay, num_steps


def test_n_steps():
    assert [num_steps(d, dt) for d, dt in ((0.7, 2e-3), (0.2, 3e-3), (1e-3, 2e-3), (0.3, 0.1))] == [
        350,
        67,
        1,
        3,
    ]
    for duration, dt, name in ((0.0, 1e-3, "duration"), (0.1, -1e-3, "dt")):
        with pytest.raises(ValueError, match=f"{name} must be finite and > 0 s"):
            num_steps(duration, dt)


def test_decay_of_numbers_arrays_and_tracers_agree():
    expected = np.exp(-0.002 / 0.02)
    assert decay(0.002, 0.02) == expected
    np.testing.assert_array_equal(decay(0.002, np.array([0.02, 0.02])), expected)
    np.testing.assert_allclose(jax.jit(lambda tau: decay(0.002, tau))(0.02), expected, rtol=1e-6)
