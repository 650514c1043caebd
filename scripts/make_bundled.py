"""Train the bundled CLIP again by the project's own commands, stage after stage, and put it where it ships.

    python scripts/make_bundled.py [--steps-scale 1.0] [--target vlsae/bundled/clip-v1] [--keep]

A contrastive loss that can tell scenes apart by colour and place never learns shapes. So the stages go from single
large objects, whose captions name colour and shape alone, over single objects of all kinds to pairs of scenes that
differ in exactly one factor. Each stage starts from the weights of the one before.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from vlsae.datasets.shapes_tokenizer import VOCABULARY, write_tokenizer
from vlsae.runs import resolve, runs_root

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "vlsae" / "bundled" / "clip-v1"
CONTEXT = 48

CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "width": 128,
            "layers": 12,
            "head_width": 32,
            "pos_embed_type": "sin_cos_2d",
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(VOCABULARY),
            "width": 64,
            "heads": 2,
            "layers": 12,
            "hf_tokenizer_name": "clip-v1",
            "tokenizer_kwargs": {},
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
}

#: Settings of the stages before the last; each is one pass over its scenes at a constant rate.
ONE_PASS = ["train.epochs=1", "train.schedule=fixed", "dataset.max_objects=1", "dataset.single=0"]

#: Scenes and settings of each stage; the last is configs/experiment/bundled_clip.yaml.
STAGES = {
    "simple": (16_000, [*ONE_PASS, "dataset.simple=true", "dataset.twins=false", "dataset.detail=short"]),
    "single": (32_000, [*ONE_PASS, "dataset.twins=false", "dataset.detail=short"]),
    "single-twins": (64_000, ONE_PASS),
    "twins": (128_000, []),
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of each stage's scenes, for a trial")
    parser.add_argument("--target", type=Path, default=BUNDLED)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        architecture = write_architecture(Path(folder))
        initial = None
        for number, (name, (scenes, settings)) in enumerate(STAGES.items()):
            scenes = max(2 * round(scenes * options.steps_scale / 2), 200)
            initial = train(name, architecture, initial, scenes, settings, options.seed + number)
    install(initial, options.target)
    logger.info("The bundled CLIP lies in %s; scripts/evaluate_bundled.py scores it.", options.target)


def write_architecture(folder: Path) -> Path:
    """Write the towers' configuration and the tokenizer into a folder without weights."""
    write_tokenizer(folder, CONTEXT)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    return folder


def train(name: str, architecture: Path, initial: Path | None, scenes: int, settings: list[str], seed: int) -> Path:
    """Run one stage by the command line and return the folder of the weights that came out."""
    run_name = f"bundled_clip-{name}"
    overrides = [
        "experiment=bundled_clip",
        f"name={run_name}",
        f"dataset.n={scenes}",
        f"dataset.seed={seed}",
        f"objective.architecture={architecture}",
        f"objective.initial={initial or 'null'}",
        *settings,
        *(["objective.temperature=0.07"] if initial is None else []),
    ]
    subprocess.run([sys.executable, "-m", "vlsae.cli", "train", *overrides], check=True)
    return resolve(f"train/{run_name}/latest", runs_root()) / "model"


def install(model: Path, target: Path) -> None:
    """Copy a trained model to where it ships, its weights in half precision."""
    target.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.suffix == ".json":
            shutil.copyfile(path, target / path.name)
    weights = {name: value.half() for name, value in load_file(model / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors")


if __name__ == "__main__":
    main()
