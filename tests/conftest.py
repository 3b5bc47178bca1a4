"""What every test leaves as it found it, and what a test may ask for by name."""

import sys

import pytest


@pytest.fixture(autouse=True)
def registered_sources():
    "Data sets that a test registers are gone after it."
    module = sys.modules.get("kpnb.datasets")
    before = None if module is None else dict(module.SOURCES)
    yield
    module = sys.modules.get("kpnb.datasets")
    if module is not None and before is not None:
        module.SOURCES.clear()
        module.SOURCES.update(before)


@pytest.fixture
def same_weights():
    "Networks that a test makes have the same weights every time."
    import torch

    torch.manual_seed(0)
