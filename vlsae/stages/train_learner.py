"""Training a learner on raw samples: what comes out is a model that ``model.checkpoint=path:…/model`` loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlsae import ranks

if TYPE_CHECKING:
    from vlsae.loggers import Logger
    from vlsae.runs import Run


def train_learner(config: Mapping[str, Any], run: Run, second: Logger) -> None:
    """Train a learner, keep its best weights under ``model/`` and take its own measures on held-out samples."""
    from vlsae.config import build, target_class
    from vlsae.reporting import write_report
    from vlsae.signatures import parameters_of
    from vlsae.stages.fitting import fit_in_run, seeded, training_metrics
    from vlsae.training.samples import SampleReader

    dataset, settings = build(config["dataset"]), config["train"]
    taken = parameters_of(target_class(config["objective"]))
    given = {"dataset": dataset} if "dataset" in taken else {}
    learner = seeded(config["seed"], lambda: build(config["objective"], **given))
    readers = {
        split: SampleReader(
            dataset,
            learner,
            batch_size=settings["batch_size"],
            split=split,
            split_settings=config["split"],
            seed=config["seed"],
            shuffle=settings["shuffle"] and split == "train",
            limit=config["limit"],
            every_text=getattr(learner, "every_text", False),
        )
        for split in ("train", "validation")
    }
    result = fit_in_run(learner, readers, config, run, second)
    if not ranks.is_first():
        return
    product = learner.cpu().product()
    product.save_pretrained(run.path / "model")
    metrics = training_metrics(result, learner.loss_unit)
    if readers["validation"].n_rows:
        metrics |= product.eval().held_out(readers["validation"])
    run.write_summary(metrics)
    write_report(run.path)
