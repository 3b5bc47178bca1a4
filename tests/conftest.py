"""What every test leaves as it found it."""

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
