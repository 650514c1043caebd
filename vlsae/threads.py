"""How the threads of the numerical libraries wait for each other."""

from __future__ import annotations

import os


def wait_asleep() -> None:
    """Let the threads of OpenMP sleep while they wait, unless the environment says otherwise; before torch is imported.

    By default they spin. Where other programs compute too, a spinning thread holds the core that the thread it waits
    for needs: with two threads on two busy cores a forward pass of the bundled CLIP took twenty times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
