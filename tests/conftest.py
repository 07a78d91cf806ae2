"""What every test starts from."""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from ddistill.training.hot_path import AUTO_PRECISION

CHROMIUM = Path("/usr/bin/chromium")
IN_BOTH_PRECISIONS = ("contract", "smoke")
"""Folders whose tests run once with float32 and once with ``auto`` taken as bfloat16, on any processor."""


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    """Pools and decoded data of a test go to a folder of its own; a test may set another."""
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", autouse=True)
def auto_precision(request):
    """What ``run.precision=auto`` means, so that no test depends on the processor that it runs on."""
    precision = getattr(request, "param", "fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(AUTO_PRECISION, precision)
        yield precision


@pytest.fixture(autouse=True)
def _full_float32(request, monkeypatch):
    """A test that needs a GPU compares float32: TF32, torch's default for convolutions, rounds to 10 bits."""
    if request.node.get_closest_marker("gpu"):
        for backend in (torch.backends.cudnn, torch.backends.cuda.matmul):
            monkeypatch.setattr(backend, "allow_tf32", False)


@pytest.fixture
def waiting_forbidden():
    """A context in which whatever makes the host wait for a GPU is an error; it always ends with the test.

    torch warns, once, when its debug mode is switched on; that warning and no other is let through.
    """
    with ExitStack() as held:

        @contextmanager
        def forbidden():
            with warnings.catch_warnings(), ExitStack() as mode:
                warnings.filterwarnings("ignore", message="Synchronization debug mode", category=UserWarning)
                mode.callback(torch.cuda.set_sync_debug_mode, "default")
                torch.cuda.set_sync_debug_mode("error")
                yield

        held.callback(lambda: torch.cuda.is_available() and torch.cuda.set_sync_debug_mode("default"))
        yield forbidden


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and none is here"))


def pytest_generate_tests(metafunc):
    if metafunc.definition.path.parent.name in IN_BOTH_PRECISIONS:
        metafunc.parametrize("auto_precision", ["fp32", "bf16"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def browser():
    """A browser for tests of pages, where there is one."""
    if importlib.util.find_spec("playwright") is None or not CHROMIUM.exists():
        pytest.skip("needs playwright and Debian's chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
        )
        yield browser
        browser.close()
