"""Fixtures of the tests."""

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device(request):
    """The device to test on: `pytest --device cuda`."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def require_data():
    """Call it with the names of the data sets a test reads: where one is absent, the test is
    skipped by that name; with LMCNB_REQUIRE_DATA=1 the skip is a failure."""

    def require(*names):
        from lmcnb.lab import data

        for name in names:
            if not data.available(name):
                if os.environ.get("LMCNB_REQUIRE_DATA") == "1":
                    pytest.fail(f"LMCNB_REQUIRE_DATA=1, and the data set {name} is absent")
                pytest.skip(f"the data set {name} is absent")

    return require
