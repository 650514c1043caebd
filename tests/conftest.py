"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def one_thread():
    """Pin torch to one thread: on a shared machine waiting threads cost more than they bring."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory) -> Iterator[Path]:
    """Keep what can be made anew out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("VLSAE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def figures_as_data() -> Iterator[None]:
    """Leave figures undrawn, which is most of a small run's time; ``figures_drawn`` is for tests that look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLSAE_FIGURES", "data")
        yield


@pytest.fixture
def figures_drawn(monkeypatch) -> None:
    """Have figures drawn, as they are for a user."""
    monkeypatch.delenv("VLSAE_FIGURES")


@pytest.fixture(scope="module")
def figures_drawn_here() -> Iterator[None]:
    """Have figures drawn for all that follows in a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLSAE_FIGURES")
        yield


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real data that lies beside the checkout; skip where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data folder {SHARED_DATA} is not here")
    return SHARED_DATA


@pytest.fixture
def runs_dir(tmp_path, monkeypatch) -> Path:
    """Return an empty runs folder that VLSAE_RUNS points to."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("VLSAE_RUNS", str(folder))
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with long tests first: files are dealt out to processes in order, and the last should be short."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
