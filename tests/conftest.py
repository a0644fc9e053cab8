"""Fixtures shared by all tests: a toy base of random weights, made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # diffusers' Euler scheduler turns a tensor into an array in a way numpy 2 complains about
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy base in mini's shape."""
    from toy import make_toy

    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy base in SDXL's shape: two text encoders, a variational autoencoder, noise prediction."""
    from toy import make_toy

    return make_toy(tmp_path_factory.mktemp("toy_sdxl"), shape="sdxl")


@pytest.fixture
def toy_base(toy: Path):
    """The toy base, loaded afresh, so that no test sees what another did to it."""
    from tambour.base import load

    return load(toy)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real photos and designs beside the repository (or in TAMBOUR_REAL); skips where it is absent."""
    folder = Path(os.environ.get("TAMBOUR_REAL", Path(__file__).parents[2] / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip("no real photos here")
    return folder
