"""Tiny random language models of several families in transformers' own format, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = ["The cat sat on the mat.", "Why?", "A longer sentence, with “quotes” and é in it."]
LAYERS = 3
WIDTH = 32

CHAT = (
    "{{ '<s>' }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def tiny_config(family: str) -> Any:
    """Return the configuration of a tiny model of a family."""
    import transformers as tr

    common = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    llama = {**sizes, "intermediate_size": 48, "num_key_value_heads": 1, "max_position_embeddings": 128}
    return {
        "gpt2": lambda: tr.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=128, **common),
        "llama": lambda: tr.LlamaConfig(**llama, **common),
        "gpt_neox": lambda: tr.GPTNeoXConfig(**sizes, intermediate_size=48, max_position_embeddings=128, **common),
        "qwen2": lambda: tr.Qwen2Config(**llama, **common),
        "opt": lambda: tr.OPTConfig(
            **sizes, ffn_dim=48, word_embed_proj_dim=WIDTH, max_position_embeddings=128, **common
        ),
        "phi": lambda: tr.PhiConfig(**{**llama, "num_key_value_heads": 2}, **common),
        "gemma2": lambda: tr.Gemma2Config(**llama, head_dim=16, **common),
        "mistral": lambda: tr.MistralConfig(**llama, **common),
    }[family]()


FAMILIES = ("gpt2", "llama", "gpt_neox", "qwen2", "opt", "phi", "gemma2", "mistral")


def write_tokenizer(folder: Path, *, bos: bool = True, chat: str | None = None, side: str = "right") -> None:
    """Write a byte-level tokenizer: 256 bytes and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side=side
    )
    fast.chat_template = chat
    fast.save_pretrained(folder)


def write_lm(folder: Path, family: str = "llama", *, seed: int = 0, **tokenizer: Any) -> Path:
    """Write a model with random weights, large enough that the layers differ visibly, and return its folder."""
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    write_tokenizer(folder, **tokenizer)
    return folder


def original(folder: Path) -> Any:
    """The model as transformers itself loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()
