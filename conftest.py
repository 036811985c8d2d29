"""Pytest for the whole repository: the tests in tests/ and, with nbval, the notebooks."""

import os
import shutil
import tempfile

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("MPLBACKEND", "agg")

collect_ignore_glob = ["tests/*.ipynb"]  # notebooks that tests use are not nbval's

NBVAL_WAIT = 120  # seconds; nbval's own 5 are too few for an output on a busy machine


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--device", default="cpu", help="the device of the tests that use one")


def pytest_configure(config):
    """No test and no notebook sees earlier runs, or leaves one behind."""
    config.runs_folder = tempfile.mkdtemp(prefix="lmcnb-runs-")
    os.environ["LMCNB_RUNS"] = config.runs_folder
    os.environ.setdefault("CI", "true")  # the progress bars of notebooks are quiet


def pytest_unconfigure(config):
    shutil.rmtree(config.runs_folder, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if hasattr(item, "output_timeout"):  # a cell of nbval
            item.output_timeout = NBVAL_WAIT
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow (make test-slow)"))
