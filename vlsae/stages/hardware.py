"""From the hardware node to a device and its threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlsae import ranks
from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.runs import Run


def device_of(config: Mapping[str, Any]) -> str:
    """Return the device that the hardware node means; ``UserError`` for one that is not there."""
    import torch

    device = config["hardware"]["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.size() > 1 and device == "cuda":
        device = f"cuda:{ranks.local_rank()}"
        torch.cuda.set_device(device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"hardware.device={device}, and no CUDA device is visible here.", "Use hardware=cpu.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"hardware.device={device} cannot be used here: {reason}", "Use hardware=cpu.") from error
    return device


def set_threads(config: Mapping[str, Any], count: int = 1) -> int:
    """Compute on as many threads as the hardware node says, or as one of ``count`` ranks has; return how many."""
    import torch

    if config["hardware"]["threads"] or count > 1:
        torch.set_num_threads(threads_of_a_rank(config, count))
    return torch.get_num_threads()


def use_hardware(config: Mapping[str, Any], run: Run) -> str:
    """Set threads, note device and threads in the run, and return the device."""
    device = device_of(config)
    shown = f"{device.split(':')[0]} × {ranks.size()}" if ranks.size() > 1 else device
    run.set_device(shown, set_threads(config))
    return device


def ranks_of(config: Mapping[str, Any]) -> int:
    """Return how many processes share a stage by the hardware node; ``UserError`` for more than there are GPUs."""
    hardware = config.get("hardware") or {}
    count, device = hardware.get("ranks", 1), hardware.get("device", "cpu")
    if count == 1:
        return 1
    import torch

    gpus = torch.cuda.device_count()
    if count is None and not gpus:
        raise UserError(
            "hardware.ranks=null is a process for every GPU, and no CUDA device is visible here.",
            "Use hardware=cpu, or hardware=multi_cpu for several processes.",
        )
    if device == "mps" or device.startswith("cuda:"):
        raise UserError(f"hardware.device={device} is one device for {count} ranks.", "Use hardware.device=cuda.")
    on_gpus = device == "cuda" or (device == "auto" and gpus > 0)
    if count is not None and on_gpus and count > gpus:
        raise UserError(f"hardware.ranks={count}, and {gpus} CUDA devices are visible here.", "Use at most as many.")
    return gpus if count is None else int(count)


def threads_of_a_rank(config: Mapping[str, Any], count: int) -> int:
    """Return the threads of each of ``count`` ranks: what the hardware node says, else an even share of the CPU."""
    from vlsae.runs.environment import default_threads

    return config["hardware"]["threads"] or max(1, default_threads() // count)


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
