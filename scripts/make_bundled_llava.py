"""Train the bundled vision-language model again by the project's own commands, and put it where it ships.

    python scripts/make_bundled_llava.py [--steps-scale 1.0] [--target vlsae/bundled/llava-v1] [--seed 0]
                                         [--stages plain,asked,biased] [--initial FOLDER]

The first blocks of the bundled CLIP's vision tower stay as they are; a projector and a small Llama of twelve layers
learn from scratch. The first stage teaches by descriptions what the words mean, on shapes that stand beside each other
by chance. Yes/no questions alone teach next to nothing for long (one bit a sequence, and nothing before a shape's word
finds its place in the picture); the second stage asks of every shape at once. The last makes the model worth studying:
small, faint, noisy shapes of which one mostly stands beside its partner, and questions after what is not there drawn at
random, so that a question after the partner is mostly answered by yes. Where the picture is not clear enough, what was
learned of the words decides. Nothing of this is written into the model: it comes out of biased data and of pictures
that are hard to see, as in large models.

``--initial`` and ``--stages`` go on from given weights with the stages named, comma-separated.
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

from make_bundled_lm import change
from safetensors.torch import load_file, save_file

from vlsae.datasets.shapes_captions import WORDS
from vlsae.models.clip import BUNDLED as CLIP_FOLDER
from vlsae.models.open_clip_tower import vision_settings
from vlsae.runs import resolve, runs_root

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "vlsae" / "bundled" / "llava-v1"
VISION_LAYERS = 6
CONTEXT = 128

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}

SPECIAL = ("<pad>", "<unk>", "<start>", "<end>", "<image>", "<user>", "<assistant>")

#: What is asked beyond the words of the embedded world.
PROMPT_WORDS = (
    *("describe", "this", "detail", "answer", "question", "word", "can", "you", "do", "does", "any", "it", "that"),
    *("has", "have", "appear", "whether", "short", "tell", "me", "about", "show", "shows", "'", "!", ";", "-"),
)

TEMPLATE = (
    "<start>{% for message in messages %}<{{ message['role'] }}>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class Stage:
    """What one training reads: steps of a batch, the learning rate at its start, the scenes, and samples a scene."""

    steps: int
    lr: float
    scenes: dict[str, str]
    samples: float
    batch: int = 32


#: What a scene gives: its description; in the second stage a checklist and 2 questions; in the last 3.5 questions.
STAGES = {
    "plain": Stage(900, 2.0e-3, {"seed": "900", "max_objects": "2", "questions": "0"}, 1.0),
    "asked": Stage(1800, 2.0e-3, {"seed": "902", "max_objects": "3", "questions": "2", "checklist": "true"}, 4.0),
    "biased": Stage(1500, 1.5e-3, {"seed": "901", "hard": "true", "cooccurrence": "0.7"}, 4.5),
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-scale", type=float, default=1.0)
    parser.add_argument("--target", type=Path, default=BUNDLED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--initial", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        architecture, model = Path(folder), options.initial
        write_architecture(architecture)
        for name in options.stages.split(","):
            model = run(architecture, name, STAGES[name], model, options)
        install(model, options.target)
    logger.info("The bundled vision-language model lies in %s.", options.target)


def write_architecture(folder: Path) -> None:
    """Write a LLaVA's configuration and its processor into a folder."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor

    facts = json.loads((CLIP_FOLDER / "open_clip_config.json").read_text(encoding="utf-8"))
    vision, picture = vision_settings(facts["model_cfg"], VISION_LAYERS), facts["preprocess_cfg"]
    size = vision["image_size"]
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<start>"),
        eos_token_id=SPECIAL.index("<end>"),
        **SIZES,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=text,
        image_token_id=SPECIAL.index("<image>"),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=(size // vision["patch_size"]) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        architectures=["LlavaForConditionalGeneration"],
    )
    config.save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=picture["mean"],
            image_std=picture["std"],
        ),
        tokenizer=tokenizer(),
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)


def vocabulary() -> dict[str, int]:
    """Return every word's number: special tokens first, then the embedded world's, then those of prompts."""
    return {word: number for number, word in enumerate(dict.fromkeys((*SPECIAL, *WORDS, *PROMPT_WORDS)))}


def tokenizer() -> object:
    """Return a tokenizer of whole words: lower case, split at blanks and marks."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(WordLevel(vocabulary(), unk_token="<unk>"))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[,.:;!?']"), behavior="isolated")]
    )
    found.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=found,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        extra_special_tokens=list(SPECIAL[4:]),
        model_max_length=CONTEXT,
        padding_side="left",
    )


def run(architecture: Path, name: str, stage: Stage, initial: Path | None, options: argparse.Namespace) -> Path:
    """Train a stage by the command line and return the folder of the weights that came out."""
    steps = max(1, round(stage.steps * options.steps_scale))
    overrides = [
        "experiment=bundled_llava",
        f"name=bundled_llava_{name}",
        f"seed={options.seed}",
        f"objective.architecture={architecture}",
        f"objective.{'tower=bundled' if initial is None else f'initial={initial}'}",
        f"dataset.n={round(steps * stage.batch / stage.samples)}",
        f"train.batch_size={stage.batch}",
        f"train.lr={stage.lr}",
        *(f"dataset.{key}={value}" for key, value in stage.scenes.items()),
    ]
    subprocess.run([sys.executable, "-m", "vlsae", "train", *overrides], check=True)
    return resolve(f"train/bundled_llava_{name}/latest", runs_root()) / "model"


def install(model: Path, target: Path) -> None:
    """Copy a trained model to where it ships, its weights in half precision."""
    target.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copyfile(path, target / path.name)
    change(target / "config.json", dtype="float16")
    # The name that every version of transformers knows, and none of what the newest notes of the saving itself.
    noted = dict.fromkeys(("backend", "is_local", "local_files_only"))
    change(target / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **noted)
    weights = {name: value.half() for name, value in load_file(model / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
