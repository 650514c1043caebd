"""Another model with its weights changed once they are loaded, and nothing else."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from vlsae.errors import UserError
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection

if TYPE_CHECKING:
    from torch import nn


class Altered(Model):
    """The model ``exact`` with other weights of the same shapes; ``alter`` says which."""

    #: What cannot be done where a model has no weights to change, and the mend.
    refusal: ClassVar[tuple[str, str]]

    def __init__(self, exact: Model) -> None:
        self.exact = exact

    def __getattr__(self, name: str) -> Any:
        if name == "exact":
            raise AttributeError(name)
        return getattr(self.exact, name)

    @abstractmethod
    def alter(self, module: nn.Module) -> None:
        """Change the weights of a loaded module."""

    @property
    @abstractmethod
    def alteration(self) -> str:
        """The words for what is changed, which tell models with other changes apart."""

    @property
    def reads_answers(self) -> bool:  # type: ignore[override]
        """Whether ``prepare`` takes answers."""
        return self.exact.reads_answers

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether a text is read together with its image."""
        return self.exact.joint

    def sites(self) -> dict[str, Site]:
        return self.exact.sites()

    def digest(self) -> str:
        return hashlib.sha256(f"{self.exact.digest()}:{self.alteration}".encode()).hexdigest()

    def load(self, device: str = "cpu", dtype: str = "float32", **more: Any) -> None:
        """Load the weights and change them."""
        import torch

        self.exact.load(device, dtype, **more)
        module = getattr(self.exact, "module", None)
        if not isinstance(module, torch.nn.Module):
            what, mend = self.refusal
            raise UserError(f"The weights of {type(self.exact).__name__} cannot be {what}.", mend)
        with torch.no_grad():
            self.alter(module)

    def prepare(self, *arguments: Any, **named: Any) -> Batch:
        return self.exact.prepare(*arguments, **named)

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        return self.exact.represent(batch, sites, tokens)

    def input_counts(self) -> dict[str, int]:
        return self.exact.input_counts()

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        return self.exact.edit(site, function)
