"""Fixtures for all tests."""

from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from _support import enable_x64

# a shared machine is slow at times: a time limit per example would only make tests flaky
hypothesis.settings.register_profile("snnjax", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("snnjax")


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    with enable_x64():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
