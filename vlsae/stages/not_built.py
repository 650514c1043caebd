"""What a stage says whose work has not been built yet."""

from __future__ import annotations

from vlsae.errors import UserError


def not_built(stage: str) -> UserError:
    """Return the error for a stage that this version only names."""
    return UserError(
        f"`vlsae {stage}` is not built yet in this version.", "Built so far: `vlsae extract`, `vlsae train` and `vlsae probe`."
    )
