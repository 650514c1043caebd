"""Dictionaries to the installed sae-lens and back: codes and rows must agree. Run it where sae-lens is installed.

python benchmarks/saelens_round_trip.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from vlsae.dictionaries import BatchTopK, Dictionary, Gated, JumpReLU, ReLUL1, TopK
from vlsae.dictionaries.saelens import read_saelens, write_saelens

D, H, K, ROWS = 48, 192, 8, 256


def dictionaries(rows: torch.Tensor) -> list[Dictionary]:
    """Return one dictionary of each form, away from its start."""
    found = []
    for cls, options in ((TopK, {}), (BatchTopK, {}), (ReLUL1, {}), (Gated, {}), (JumpReLU, {"threshold": 0.05})):
        torch.manual_seed(0)
        dictionary = cls(D, H, K, **options)
        dictionary.initialize({"vision": rows})
        with torch.no_grad():
            for parameter in dictionary.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            if isinstance(dictionary, BatchTopK):
                dictionary.threshold.fill_(0.4)
        found.append(dictionary.eval())
    return found


@torch.no_grad()
def main() -> int:
    """Print the largest differences by kind; return 1 where one is above 1e-4."""
    import sae_lens

    sys.stdout.write(f"sae-lens {sae_lens.__version__}\n")
    rows = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(1)) + 0.3
    worst = 0.0
    for dictionary in dictionaries(rows):
        code = dictionary.encode(rows, "vision")
        decoded = dictionary.decode(code, "vision")
        with tempfile.TemporaryDirectory() as folder:
            there, back = Path(folder) / "there", Path(folder) / "back"
            write_saelens(dictionary, there, metadata={"hook_name": "blocks.3.hook_resid_pre"})
            theirs = sae_lens.SAE.load_from_disk(there)
            their_code = theirs.encode(rows)
            differences = [
                (their_code - code.to_dense()).abs().max().item(),
                (theirs.decode(their_code) - decoded).abs().max().item(),
            ]
            theirs.save_model(back)
            ours, _ = read_saelens(back)
            again = ours.encode(rows, "vision")
            differences += [
                (again.to_dense() - code.to_dense()).abs().max().item(),
                (ours.decode(again, "vision") - decoded).abs().max().item(),
            ]
        words = "code there {:.1e}, rows there {:.1e}, code back {:.1e}, rows back {:.1e}".format(*differences)
        sys.stdout.write(f"{dictionary.kind:12} {words}\n")
        worst = max(worst, *differences)
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
