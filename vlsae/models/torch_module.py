"""A torch module of the user's own, or one of torchvision's, convolutional or not, read at the modules within it."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vlsae import plugins
from vlsae.bounds import Range
from vlsae.errors import UserError, nearest, unknown
from vlsae.models.base import Site
from vlsae.models.checkpoints import file_digest, parse
from vlsae.models.vision import VisionModel
from vlsae.models.weights import load_exactly, read_tensors

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from vlsae.models.towers import Tower

Mean = Annotated[float, Range(-10, 10)]
Std = Annotated[float, Range(1e-6, 1000)]


@dataclass(frozen=True)
class _Maps:
    """The layers of a module that is no sequence of equal blocks: each has its own width and path."""

    found: tuple[tuple[str, Site], ...]
    prefix: int = 0
    class_index: int | None = None

    def sites(self) -> tuple[tuple[str, Site], ...]:
        return self.found


class TorchModule(VisionModel):
    """A module with its weights: ``architecture`` is ``FILE.FUNCTION`` of a file named by ``--plugin``, called without
    arguments, or the name of a model of torchvision; ``checkpoint`` is ``path:FILE`` of its state dict.

    Layers are the entries of the outermost lists of modules (``nn.Sequential``, ``nn.ModuleList``) in the order in
    which they run, or the modules that ``layers`` names. A feature map counts as one position a pixel; by default it is
    averaged over space. The embedding is what the module returns. Images are resized to ``image_size`` and scaled by
    ``mean`` and ``std``.
    """

    def __init__(
        self,
        *,
        checkpoint: str,
        architecture: str,
        layers: list[str] | None = None,
        image_size: Annotated[int, Range(1, None)] = 224,
        mean: list[Mean] = (0.485, 0.456, 0.406),  # type: ignore[assignment]
        std: list[Std] = (0.229, 0.224, 0.225),  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        self.checkpoint, self.architecture, self.layers = checkpoint, architecture, layers
        self.image_size, self.mean, self.std = image_size, list(mean), list(std)
        if len(self.mean) != 3 or len(self.std) != 3:
            raise UserError("model.mean and model.std have one number for each of red, green and blue.", "Give three.")

    @cached_property
    def weights(self) -> Path:
        """The weight file."""
        kind, rest = parse(self.checkpoint, ("path",))
        if kind != "path":
            raise UserError(f"model.checkpoint={self.checkpoint} is no file.", "Write path:FILE.")
        return Path(rest).expanduser()

    def _create(self) -> Any:
        from torch import nn

        made = self._maker()()
        if not isinstance(made, nn.Module):
            raise UserError(f"model.architecture={self.architecture} gives {type(made).__name__}, no torch module.")
        return made.eval()

    def _maker(self) -> Any:
        module, dot, name = self.architecture.rpartition(".")
        if not dot:
            import torchvision

            if name not in torchvision.models.list_models():
                raise unknown("model of torchvision", name, torchvision.models.list_models())
            return lambda: torchvision.models.get_model(name, weights=None)
        if not plugins.is_allowed(module):
            raise UserError(
                f"model.architecture={self.architecture} lies in no file that was named.",
                f"Add --plugin {module}.py, or name a model of torchvision.",
            )
        found = getattr(sys.modules[module], name, None)
        if not callable(found):
            close = nearest(name, dir(sys.modules[module]), limit=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"{module} holds no function or class {name!r}.", f"Name one that is there.{hint}")
        return found

    def _describe(self) -> Tower:
        import torch

        module = self._create()
        paths = self._layer_paths(module)
        shapes: dict[str, tuple[int, ...]] = {}

        def note(path: str) -> Any:
            def hook(_: Any, args: Any, output: Any) -> None:
                shapes.setdefault(f"{path}:input", tuple(args[0].shape))
                shapes.setdefault(path, tuple(output.shape))

            return hook

        for path in paths:
            module.get_submodule(path).register_forward_hook(note(path))
        try:
            with torch.no_grad():
                output = module(torch.zeros(1, 3, self.image_size, self.image_size))
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{self.architecture} cannot run on an image of {self.image_size} pixels: {str(error).splitlines()[0]}",
                "Set model.image_size, or model.layers to modules that give one tensor.",
            ) from error
        if not isinstance(output, torch.Tensor):
            raise UserError(
                f"{self.architecture} returns {type(output).__name__}, no tensor.", "Wrap it in one that does."
            )
        order = [path for path in shapes if not path.endswith(":input")]
        sites = [("vision.0", Site(_width(shapes[f"{order[0]}:input"]), f"{order[0]}:input"))] if order else []
        sites += [(f"vision.{n}", Site(_width(shapes[path]), path)) for n, path in enumerate(order, 1)]
        sites.append(("vision.embedding", Site(output[0].numel(), "forward")))
        return _Maps(tuple(sites))  # type: ignore[return-value]

    def _layer_paths(self, module: Any) -> list[str]:
        from torch import nn

        names = [name for name, _ in module.named_modules() if name]
        if self.layers is not None:
            for path in self.layers:
                if path not in names:
                    raise unknown("module for model.layers", path, names)
            return list(self.layers)
        chosen: list[str] = []
        for name in names:
            parent = module.get_submodule(name.rpartition(".")[0])
            inside = any(name.startswith(f"{other}.") for other in chosen)
            holds = isinstance(module.get_submodule(name), nn.Sequential | nn.ModuleList)
            if isinstance(parent, nn.Sequential | nn.ModuleList) and not inside and not holds:
                chosen.append(name)
        return chosen or [name for name, _ in module.named_children()]

    def _build(self) -> Any:
        module = self._create()
        load_exactly(module, read_tensors(self.weights), self.weights)
        return module

    @cached_property
    def _transform(self) -> Any:
        from vlsae.models.pixels import Pixels

        return Pixels({"mean": self.mean, "std": self.std, "interpolation": "bilinear"}, self.image_size)

    def _pixels(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        return self._transform(images)

    def _encode(self, module: Any, pixels: Tensor) -> Tensor:
        return module(pixels).flatten(1)

    def _sequence(self, hidden: Tensor) -> Tensor:
        if hidden.ndim == 3:
            return hidden
        return hidden[:, None] if hidden.ndim == 2 else hidden.flatten(2).transpose(1, 2)

    def _as_before(self, sequence: Tensor, hidden: Tensor) -> Tensor:
        if hidden.ndim == 3:
            return sequence
        return sequence[:, 0] if hidden.ndim == 2 else sequence.transpose(1, 2).reshape(hidden.shape)

    def digest(self) -> str:
        """Return the SHA-256 of weights, of the file that defines the module, and of the settings."""
        source = inspect.getsourcefile(self._maker())
        names = ("architecture", "layers", "image_size", "mean", "std")
        description = {
            "weights": file_digest(self.weights),
            "source": file_digest(Path(source)) if source and "." in self.architecture else None,
            "settings": {name: getattr(self, name) for name in names},
        }
        return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _width(shape: tuple[int, ...]) -> int:
    return shape[-1] if len(shape) == 3 else shape[1]
