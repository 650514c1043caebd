"""Train the bundled CLIP again by the project's own commands, stage after stage, and put it where it ships.

    python scripts/make_bundled.py [--steps-scale 1.0] [--target vlsae/bundled/clip-v2] [--seed 0]
                                   [--stages shapes,twins] [--initial FOLDER]

A contrastive loss that can tell scenes apart by colour never learns the rest, and at a low temperature what is not yet
learned is noise that the towers learn to suppress. So the temperature starts high, each factor has a stage in which
little else tells the scenes apart, and only the last stage is the plain task, with pairs that differ in one factor.
Each stage starts from the weights of the one before. A stage is a mixture of scenes; its shares are rows a batch.

No combination that is scored as unseen is ever drawn. Each colour then lacks one shape, so that colour tells of shape,
and a model that uses this is wrong just on the unseen combinations. The stages with ``crossed`` scenes take that away:
a batch holds four shapes and the four colours that go with all of them, and an image meets no caption, right or wrong,
from which its colour could have told it. Their images come with all of their captions, one factor in each.

``--initial`` and ``--stages`` go on from given weights with the stages named, comma-separated.

The committed weights (clip-v2) were made in two goes. Up to the stage ``twins`` they are those of clip-v1, whose course
was steered by hand through what the first seven stages repeat. The last three went on from there: ``crossed`` as one
command with these settings (seeds 800 and 801, no validation rows), ``crossed-more`` and ``last`` by this script with
``--initial`` and ``--seed 5000``. A repeat starts from scratch, so its weights and numbers
differ: docs/claims.md has those of one with ``--seed 0``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from vlsae.datasets.shapes_tokenizer import VOCABULARY, write_tokenizer
from vlsae.runs import resolve, runs_root

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "vlsae" / "bundled" / "clip-v2"
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
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(VOCABULARY),
            "width": 64,
            "heads": 2,
            "layers": 12,
            "hf_tokenizer_name": "clip-v2",
            "tokenizer_kwargs": {},
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
}

#: The scenes that stages mix.
PARTS = {
    "full": "",
    "factors": "max_objects: 1, detail: each, crossed: {batch}",
    "crossed": "crossed: {batch}",
    "hard-factors": "max_objects: 1, detail: each, crossed: {batch}, hard: true",
    "lone": "max_objects: 1, detail: lone",
    "place": "max_objects: 1, detail: place",
    "short": "max_objects: 1, detail: short",
    "simple": "max_objects: 1, detail: short, simple: true",
    "size": "max_objects: 1, detail: size",
    "texture": "max_objects: 1, detail: texture",
    "twins": "twins: true, single: 0.4, detail: mixed",
}


@dataclass(frozen=True)
class Stage:
    """One run: its steps, learning rate, the temperature's lower bound, and rows a batch of each part.

    With several ``epochs`` the rate falls by half a cosine from pass to pass. With crossed scenes (``factors``) every
    batch is of one part, and the rows say how often it is its turn.
    """

    name: str
    steps: int
    lr: float
    temperature_min: float
    rows: dict[str, int]
    epochs: int = 1

    @property
    def batch(self) -> int:
        return sum(self.rows.values())

    @property
    def block(self) -> int:
        return self.batch if "factors" in self.rows else 2


STAGES = (
    Stage("words", 300, 5e-4, 0.02, {"simple": 24, "lone": 40}),
    Stage("scenes", 450, 8e-4, 0.02, {"full": 48, "simple": 32, "lone": 16}),
    Stage("place", 550, 1e-3, 0.08, {"place": 64, "full": 24}),
    Stage("texture", 300, 1e-3, 0.08, {"texture": 40, "place": 12, "size": 12, "full": 24}),
    Stage("simple-shapes", 350, 1e-3, 0.07, {"simple": 52, "texture": 16, "place": 8, "size": 8, "full": 24}),
    Stage("shapes", 850, 1e-3, 0.06, {"short": 62, "texture": 6, "place": 6, "size": 6, "full": 22}),
    Stage("twins", 3000, 1e-3, 0.05, {"twins": 48, "full": 24, "short": 20, "lone": 20}, epochs=10),
    Stage("crossed", 1300, 8e-4, 0.05, {"factors": 74, "twins": 22}),
    Stage("crossed-more", 2000, 1e-3, 0.05, {"factors": 48, "twins": 16}),
    Stage("last", 4200, 1e-3, 0.05, {"factors": 24, "hard-factors": 12, "twins": 12, "crossed": 16}, epochs=5),
)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of each stage's scenes, for a trial")
    parser.add_argument("--target", type=Path, default=BUNDLED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--initial", type=Path, help="a folder whose weights to start from; default: from scratch")
    parser.add_argument("--stages", help="which to run, comma-separated; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        architecture = write_architecture(Path(folder))
        initial = options.initial
        for number, stage in enumerate(STAGES):
            if options.stages is None or stage.name in options.stages.split(","):
                initial = train(stage, architecture, initial, options.steps_scale, options.seed + 100 * number)
    install(initial, options.target)
    logger.info("The bundled CLIP lies in %s; scripts/evaluate_bundled.py scores it.", options.target)


def write_architecture(folder: Path) -> Path:
    """Write the towers' configuration and the tokenizer into a folder without weights."""
    write_tokenizer(folder, CONTEXT)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    return folder


def train(stage: Stage, architecture: Path, initial: Path | None, scale: float, seed: int) -> Path:
    """Run one stage by the command line and return the folder of the weights that came out."""
    name = f"bundled_clip-{stage.name}"
    start = [f"objective.initial={initial}"] if initial is not None else ["objective.temperature=0.5"]
    overrides = [
        "experiment=bundled_clip",
        f"name={name}",
        f"dataset.parts=[{', '.join(parts_of(stage, scale, seed))}]",
        f"objective.architecture={architecture}",
        f"objective.temperature_min={stage.temperature_min}",
        *start,
        f"objective.every_text={str('factors' in stage.rows).lower()}",
        f"train.batch_size={stage.batch}",
        f"train.lr={stage.lr}",
        f"train.epochs={stage.epochs}",
    ]
    subprocess.run([sys.executable, "-m", "vlsae", "train", *overrides], check=True)
    return resolve(f"train/{name}/latest", runs_root()) / "model"


def parts_of(stage: Stage, scale: float, seed: int) -> list[str]:
    """Return the stage's datasets as Hydra writes nodes, long enough for its steps."""
    nodes = []
    for number, (part, rows) in enumerate(stage.rows.items()):
        scenes = stage.block * max(round(rows * stage.steps * scale / stage.epochs / stage.block), 40 // stage.block, 1)
        extra = f", {PARTS[part].format(batch=stage.batch)}" if PARTS[part] else ""
        nodes.append(f"{{_target_: vlsae.datasets.Shapes, n: {scenes}, seed: {seed + number}{extra}}}")
    return nodes


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
