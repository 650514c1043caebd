"""From the hardware node to a device and its threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.runs import Run


def device_of(config: Mapping[str, Any]) -> str:
    """Return the device that the hardware node means; ``UserError`` for one that is not there."""
    import torch

    device = config["hardware"]["device"]
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"hardware.device={device}, and no CUDA device is visible here.", "Use hardware=cpu.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"hardware.device={device} cannot be used here: {reason}", "Use hardware=cpu.") from error
    return device


def set_threads(config: Mapping[str, Any]) -> int:
    """Compute on as many threads as the hardware node says, and return how many these are."""
    import torch

    if config["hardware"]["threads"]:
        torch.set_num_threads(config["hardware"]["threads"])
    return torch.get_num_threads()


def use_hardware(config: Mapping[str, Any], run: Run) -> str:
    """Set threads, note device and threads in the run, and return the device."""
    device = device_of(config)
    run.set_device(device, set_threads(config))
    return device


def load_model(model: Any, config: Mapping[str, Any], device: str) -> None:
    """Load a model's weights on a device as the hardware node says.

    Raises ``UserError`` where a quantisation is asked of a model that has none.
    """
    hardware = config["hardware"]
    quantisation = hardware.get("quantisation", "none")
    if quantisation == "none":
        model.load(device, hardware["dtype"])
    elif model.quantises:
        model.load(device, hardware["dtype"], quantisation=quantisation)
    else:
        raise UserError(
            f"hardware.quantisation={quantisation}: only language models (model=lm) are quantised.",
            "Use hardware.quantisation=none.",
        )
