"""The public names of the package: all there, and cheap to reach."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlsae import probes


@pytest.mark.parametrize("name", probes.__all__)
def test_public_names_are_there(name):
    assert callable(getattr(probes, name))


def test_probes_import_no_torch():
    names = ", ".join(probes.__all__)
    code = f"import sys; from vlsae.probes import {names}; assert not {{'torch', 'hydra', 'typer'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
