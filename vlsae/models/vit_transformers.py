"""Vision models of transformers (ViT, DeiT, DINOv2, SigLIP's tower …): their own modules and image processors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError
from vlsae.models.model_folder import ModelFolder
from vlsae.models.vision import VisionModel

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from vlsae.models.towers import Tower

PREPROCESSOR = "preprocessor_config.json"

#: Names that end those of parameters which are positions in front of the patches.
CLASS_TOKENS = ("cls_token", "class_embedding")
OTHER_TOKENS = ("distillation_token", "register_tokens")

#: Models whose forward pass hides patches at random, even when nothing is learned.
MASKING = ("vit_mae", "ijepa")


class TransformersViT(VisionModel):
    """A vision model of transformers; its embedding is the model's pooled output, or where its weights lack the pooler
    the class token (without one, the mean) after the final norm."""

    def __init__(self, files: ModelFolder) -> None:
        super().__init__()
        self.files = files

    @cached_property
    def config(self) -> Any:
        """The configuration of the vision model; of a model with two towers, that of the one that sees."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.files.folder, trust_remote_code=False, local_files_only=True)
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise self._unreadable("configuration", error) from error
        config = getattr(config, "vision_config", None) or config
        if config.model_type in MASKING:
            raise UserError(
                f"{config.model_type} hides patches at random whenever it runs, so its layers have no fixed values.",
                "Save its encoder as a plain ViT (ViTModel) and give that folder.",
            )
        return config

    @cached_property
    def _skeleton(self) -> Any:
        import torch
        from transformers import AutoModel

        try:
            with torch.device("meta"):
                return AutoModel.from_config(self.config, trust_remote_code=False)
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable("architecture", error) from error

    def _describe(self) -> Tower:
        from vlsae.models.blocks import PARTS, block_path
        from vlsae.models.towers import Tower

        layers, width = getattr(self.config, "num_hidden_layers", 0), getattr(self.config, "hidden_size", None)
        if not layers or not isinstance(width, int):
            raise UserError(
                f"{type(self._skeleton).__name__} is no vision transformer: it has no layers of one width.",
                "A convolutional network is read by model=torch_module.",
            )
        path = block_path(self._skeleton, layers)
        children = dict(self._skeleton.get_submodule(f"{path}.0").named_children())
        parts = {part: next((name for name in names if name in children), "") for part, names in PARTS.items()}
        tokens = self._tokens()
        return Tower(
            "vision",
            path,
            layers,
            width,
            width,
            {part: name for part, name in parts.items() if name},
            prefix=sum(tokens.values()),
            class_index=0 if any(name in tokens for name in CLASS_TOKENS) else None,
            encode="forward",
        )

    def _tokens(self) -> dict[str, int]:
        """Return how many positions each token in front of the patches takes."""
        found = {}
        for name, parameter in self._skeleton.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if last in (*CLASS_TOKENS, *OTHER_TOKENS):
                found[last] = parameter.shape[-2] if parameter.ndim == 3 else 1
        return found

    def _build(self) -> Any:
        from transformers import AutoModel

        from vlsae.models.lm_loading import quiet
        from vlsae.models.weights import damage_explained

        settings: dict[str, Any] = {"use_safetensors": self.files.is_safe, "local_files_only": True}
        read: Any = AutoModel.from_pretrained
        try:
            with quiet(), damage_explained(self.files.weights[0]):
                module, facts = read(
                    self.files.folder,
                    config=self.config,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **settings,
                )
        except UserError:
            raise
        except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
            raise self._unreadable("model", error) from error
        missing = sorted(facts.get("missing_keys") or ()) + sorted(map(str, facts.get("mismatched_keys") or ()))
        # A pooler that was never trained starts at random: the summary before it is the model's own.
        if missing and all(name.startswith("pooler.") for name in missing):
            module.pooler = None
        elif missing:
            raise UserError(
                f"The weights of {self.files.folder} do not fit its configuration: {', '.join(missing[:3])}.",
                "Give the configuration that they were trained with.",
            )
        return module

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        if not (self.files.folder / PREPROCESSOR).is_file():
            raise MissingFile(
                f"{self.files.folder} holds no {PREPROCESSOR}, which says how images are prepared.",
                "Copy it from the model's source; the wrong scale of pixels would change every number.",
            )
        try:
            return AutoImageProcessor.from_pretrained(self.files.folder, trust_remote_code=False, local_files_only=True)
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise self._unreadable("image processor", error) from error

    def _pixels(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        from PIL import Image

        pictures = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images]
        return self._processor(images=pictures, return_tensors="pt")["pixel_values"]

    def _encode(self, module: Any, pixels: Tensor) -> Tensor:
        output = module(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled
        hidden, index = output.last_hidden_state, self.tower.class_index
        return hidden[:, self.tower.prefix :].mean(dim=1) if index is None else hidden[:, index]

    def digest(self) -> str:
        """Return the SHA-256 of weights, configuration and preprocessing."""
        return self.files.digest()

    def _unreadable(self, what: str, error: Exception) -> UserError:
        line = next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return UserError(
            f"The {what} of {self.files.folder} cannot be read: {line}",
            "Give the folder that save_pretrained of transformers wrote, of a vision model.",
        )
