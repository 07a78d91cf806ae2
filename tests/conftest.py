"""What every test starts from."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    """Pools and decoded data of a test go to a folder of its own; a test may set another."""
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
