"""A dictionary made ready for others: its files, what it reads, and a card that says so; and the way to the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlsae.dictionaries.references import INPUT, Referenced, load_dictionary
from vlsae.dictionaries.saelens import write_saelens
from vlsae.errors import UserError
from vlsae.runs.metrics import read_summary

FORMATS = ("vlsae", "saelens")

#: Numbers of a card, where the run has them.
SHOWN = (
    "explained_variance/vision",
    "explained_variance/language",
    "l0/vision",
    "l0/language",
    "dead/vision",
    "dead/language",
    "consistency",
    "recovery/auroc",
    "recovery_random/auroc",
)


def export(
    reference: str, folder: Path, *, form: str = "vlsae", stream: str | None = None, root: Path | None = None
) -> Path:
    """Write a dictionary with its card into an empty or new folder, in our own form or SAELens', and return it.

    Raises ``UserError`` for a folder that holds something, and for kinds that SAELens' layout has no place for.
    """
    if form not in FORMATS:
        raise UserError(f"There is no format {form!r}.", f"Use one of {', '.join(FORMATS)}.")
    found = load_dictionary(reference, root)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already.", "Name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if form == "saelens":
        if found.auxiliary is not None:
            raise UserError("The dictionary reads what an auxiliary autoencoder makes of rows, which SAELens does not.")
        site = None if found.sites is None else found.sites.get(stream or next(iter(found.sites)))
        metadata = {"hook_name": site, "vlsae": {**found.facts, "sites": found.sites}}
        write_saelens(found.dictionary, folder, stream, {k: v for k, v in metadata.items() if v is not None})
    else:
        found.dictionary.save_pretrained(folder)
        if (found.path / INPUT).is_file():
            shutil.copyfile(found.path / INPUT, folder / INPUT)
        if found.auxiliary is not None:
            found.auxiliary.save_pretrained(folder / "auxiliary")
    summary = read_summary(found.path.parent) if (found.path.parent / "summary.json").is_file() else None
    (folder / "README.md").write_text(card(found, form, (summary or {}).get("metrics", {})), encoding="utf-8")
    return folder


def push_to_hub(
    reference: str,
    repository: str,
    scratch: Path,
    *,
    form: str = "vlsae",
    stream: str | None = None,
    private: bool = True,
    root: Path | None = None,
) -> str:
    """Export a dictionary into a scratch folder, upload it as a model repository, and return the commit's address.

    Raises ``UserError`` where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    folder = export(reference, scratch / "dictionary", form=form, stream=stream, root=root)
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Dictionary")
    except Exception as error:  # not logged in, no such organisation, offline: the client's errors differ by version
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{repository} cannot be written on the Hub: {reason}", "Log in with `hf auth login`, and check the name."
        ) from error
    return str(commit)


def card(found: Referenced, form: str, metrics: Mapping[str, Any]) -> str:
    """Return the model card: what the dictionary is, what it reads, how well it did, and how to load it."""
    dictionary = found.dictionary
    sites = found.sites or {}
    lines = [
        "---",
        "library_name: " + form,
        "tags: [sparse-autoencoder, interpretability, vision-language]",
        "---",
        "",
        f"# {dictionary.kind}: {dictionary.n_concepts} concepts, {dictionary.k} active a row",
        "",
        f"A dictionary of kind `{dictionary.kind}` for rows {dictionary.width} wide.",
        "",
        "## What it reads",
        "",
        *(f"- {stream}: site `{site}`" for stream, site in sites.items()),
    ]
    if not sites:
        lines.append("- which site is not recorded")
    if found.auxiliary is not None:
        lines.append("- through the auxiliary autoencoder in `auxiliary/`")
    for stream, known in found.statistics.items():
        lines.append(f"- {stream} rows had mean length {known['norm_mean']:.4g}; others are refused on loading")
    if found.facts.get("model"):
        lines.append(f"- weights of the model: SHA-256 `{found.facts['model']}`")
    own = [(name, metrics[name]) for name in SHOWN if name in metrics and metrics[name]["value"] is not None]
    if own:
        lines += [
            "",
            "## On held-out rows",
            "",
            "| measure | value | 95 % interval (this checkpoint) |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {one['value']:.4g} | {_interval(one)} |" for name, one in own]
    load = (
        "SAE.load_from_disk(FOLDER)  # sae_lens" if form == "saelens" else "vlsae.dictionaries.from_pretrained(FOLDER)"
    )
    lines += ["", "## Loading", "", f"    {load}", "    vlsae probe probe=dictionary dictionary=FOLDER", ""]
    return "\n".join(lines)


def _interval(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None else f"{one['low']:.4g} to {one['high']:.4g}"
