"""The contract suite: what every model, dataset, objective and dictionary must keep, shipped for classes of your own.

    from vlsae.testing import check
    check(MySAE)                        # a class; settings it needs as keywords: check(Captions, path="photos")

Failures are ``AssertionError`` that say which rule is broken.
"""

from __future__ import annotations

import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

from vlsae.bounds import misfit
from vlsae.signatures import parameters_of, settings_of

#: What may stand before the keyword-only settings of a dictionary.
POSITIONAL = ("width", "n_concepts", "k")

SITE = re.compile(r"(vision|language)\.(embedding|\d+(\.\w+)*)")
STREAMS = ("vision", "language")
WIDTH, ROWS = 6, 16


class ContractError(AssertionError):
    """A class breaks a rule that the rest of the project relies on."""


def check(cls: type, **settings: Any) -> None:
    """Run the contract of a class's kind on it; ``settings`` are constructor arguments that have no default.

    Raises ``ContractError`` (an ``AssertionError``) that names the rule.
    """
    from vlsae.datasets.base import Dataset
    from vlsae.dictionaries.base import Dictionary
    from vlsae.dictionaries.fit import Fit
    from vlsae.enhancement.task import Task
    from vlsae.models.base import Model
    from vlsae.probes.base import Probe
    from vlsae.training.objective import Objective

    check_signature(cls)
    kinds = {
        Dataset: check_dataset,
        Model: check_model,
        Dictionary: check_dictionary,
        Objective: check_objective,
        Fit: check_fit,
        Probe: check_probe,
        Task: check_task,
    }
    found = [suite for base, suite in kinds.items() if issubclass(cls, base)]
    require(bool(found), f"{cls.__name__} is a Dataset, Model, Dictionary, Fit, Objective, Probe or Task")
    for suite in found:
        suite(cls, **settings)


def require(holds: bool, rule: str) -> None:
    """Raise ``ContractError`` unless a rule holds."""
    if not holds:
        raise ContractError(f"broken: {rule}")


def refuses(rule: str, function: Any, *arguments: Any) -> None:
    """Raise ``ContractError`` unless the call raises ``ValueError``."""
    try:
        function(*arguments)
    except ValueError:
        return
    raise ContractError(f"broken: {rule} raises ValueError")


def check_signature(cls: type) -> None:
    """Check that the signature can serve as the schema of a configuration."""
    require(bool(inspect.getdoc(cls)), f"{cls.__name__} has a docstring")
    for name, parameter in parameters_of(cls).items():
        keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        require(keyword or name in POSITIONAL, f"{cls.__name__}({name}) is keyword-only")
    for name, setting in settings_of(cls).items():
        require(setting.annotation is not Any, f"{cls.__name__}({name}) has a type that exists at run time")
        fits = setting.required or misfit(setting.default, setting.annotation) is None
        require(fits, f"the default of {cls.__name__}({name}), {setting.default!r}, fits its own type and bounds")


def check_dataset(cls: Any, **settings: Any) -> None:
    """Check table, pixels and digest of a dataset."""
    dataset = cls(**settings)
    table = dataset.table
    required = ("sample_id", "texts", "labels", "source", "group")
    require(set(required) <= set(table.column_names), f"the table has the columns {', '.join(required)}")
    require(len(dataset) == len(table) > 0, "len(dataset) is the number of the table's rows, at least one")
    ids = list(table["sample_id"])
    require(all(isinstance(one, str) and one for one in ids), "sample_id is text")
    require(len(set(ids)) == len(ids), "sample_id is unique")
    require(all(isinstance(texts, list) for texts in table["texts"]), "texts is a list of texts")
    require(dataset.block >= 1, "block is at least 1")
    require(isinstance(dataset.skipped, list), "skipped is a list")
    digest = dataset.digest()
    require(bool(re.fullmatch(r"[0-9a-f]{64}", digest)), "digest is a SHA-256")
    require(cls(**settings).digest() == digest, "equal settings and content give an equal digest")
    if dataset.has_images:
        numbers = list(range(min(3, len(dataset))))
        _check_images(dataset.images(numbers), len(numbers))
        _same_images(dataset.images(numbers[-1:]), dataset.images(numbers)[-1:])


def _check_images(images: Any, count: int) -> None:
    import numpy as np

    require(len(images) == count, "images gives one image a row")
    for image in images:
        pixels = np.asarray(image)
        good = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
        require(good, "an image is RGB, uint8 (height, width, 3)")


def _same_images(left: Any, right: Any) -> None:
    import numpy as np

    same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(left, right))
    require(same, "an image is the same alone and among others")


def check_model(cls: Any, **settings: Any) -> None:
    """Check sites, digest, rows and edits of a model."""
    import numpy as np
    import torch

    model = cls(**settings)
    sites, digest = model.sites(), model.digest()
    require(bool(sites), "a model has sites")
    for name, site in sites.items():
        require(bool(SITE.fullmatch(name)), f"the site {name!r} reads stream.layer[.part]")
        require(site.width >= 1, f"the width of {name} is at least 1")
    require(bool(re.fullmatch(r"[0-9a-f]{64}", digest)), "digest is a SHA-256")
    require(cls(**settings).digest() == digest, "equal settings and weights give an equal digest")
    model.load("cpu", "float32")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    streams = {name.split(".")[0] for name in sites}
    batch = model.prepare(pixels if "vision" in streams else None, ["red", "blue"] if "language" in streams else None)
    rows = model.represent(batch, list(sites))
    for name, found in rows.items():
        n = len(found.values)
        require(found.values.shape == (n, sites[name].width), f"{name} gives rows of its width")
        require(len(found.sample) == len(found.position) == n, f"{name} has a sample and a position for each row")
        require(bool(torch.isfinite(found.values).all()), f"{name} gives finite values")
        require(set(found.sample.tolist()) == {0, 1}, f"{name} has rows of every item")
    require(list(rows) == list(sites), "represent gives every site asked for, in that order")
    for name, found in rows.items():
        alone = model.represent(batch, [name])[name].values
        require(torch.equal(alone, found.values), f"{name} is the same alone and among other sites")
    refuses("an unknown site", model.represent, batch, ["vision.999"])
    _check_edit(model, batch, [name for name in sites if not name.endswith(".embedding")], rows)


def _check_edit(model: Any, batch: Any, inner: list[str], rows: Any) -> None:
    import torch

    for name in inner:
        with model.edit(name, lambda hidden: hidden):
            after = model.represent(batch, list(rows))
        require(all(torch.equal(after[one].values, rows[one].values) for one in rows), f"no edit at {name} is exact")


def check_dictionary(cls: Any, **settings: Any) -> None:
    """Check codes, shapes, refusals and files of a dictionary."""
    _check_codes(_with_width(cls, settings))


def check_fit(cls: Any, **settings: Any) -> None:
    """Check that a fit makes a dictionary of rows, the same from the same seed."""
    import torch

    class Rows:
        steps_per_epoch = 2
        seed = 0

        def batch(self, step: int) -> dict[str, Any]:
            generator = torch.Generator().manual_seed(step % 2)
            return {stream: torch.randn(2 * ROWS, WIDTH, generator=generator) + 0.5 for stream in STREAMS}

    found = []
    for _ in range(2):
        fit = _with_width(cls, settings)
        torch.manual_seed(0)
        found.append(fit.fit(Rows()))
    states = [one.state_dict() for one in found]
    same = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    require(same, "a fit of the same rows and seed gives the same dictionary")
    _check_codes(found[0])


def _check_codes(dictionary: Any) -> None:
    import torch

    cls = type(dictionary)
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    before, h = x.clone(), dictionary.n_concepts
    require(dictionary.width == WIDTH and 1 <= dictionary.k <= h, "width, n_concepts and k are attributes")
    for stream in STREAMS:
        code = dictionary.encode(x, stream)
        counts = code.offsets.diff()
        require(code.offsets.shape == (ROWS + 1,) and int(code.offsets[-1]) == len(code.indices), "codes are CSR")
        require(code.n_concepts == h, "a code has the dictionary's concepts")
        inside = bool((code.indices >= 0).all() and (code.indices < h).all())
        require(inside and len(code.values) == len(code.indices), "indices lie in 0…n_concepts−1, one a value")
        few = not dictionary.bounds_k or bool((counts <= dictionary.k).all())
        require(few, "a row has at most k active concepts, unless bounds_k is false")
        require(dictionary.activations(x, stream).shape == (ROWS, h), "activations are (n, h)")
        decoded = dictionary.decode(code, stream)
        require(decoded.shape == (ROWS, WIDTH), "decode gives (n, d)")
        dense = dictionary.decode(code.to_dense(), stream)
        require(torch.allclose(dense, decoded, atol=1e-6), "a dense code decodes alike")
        refuses("a wrong width", dictionary.encode, x[:, :-1], stream)
        refuses("a row that is not finite", dictionary.encode, torch.full_like(x, torch.nan), stream)
    refuses("an unknown stream", dictionary.encode, x, "sound")
    require(torch.equal(x, before), "the input is left as it was")
    with tempfile.TemporaryDirectory() as folder:
        dictionary.save_pretrained(folder)
        names = {path.name for path in Path(folder).iterdir()}
        require({"model.safetensors", "config.json"} <= names, "save_pretrained writes weights and config.json")
        again = cls.from_pretrained(folder)
    state = again.state_dict()
    same = all(torch.equal(value, state[name]) for name, value in dictionary.state_dict().items())
    require(same and type(again) is cls, "from_pretrained gives an equal dictionary back")


def check_objective(cls: Any, **settings: Any) -> None:
    """Check loss, gradients, parameter groups, refusals and product of an objective."""
    import torch

    from vlsae.training import build_optimizer, train_step

    objective = _with_width(cls, settings)
    require(objective.source in ("representations", "samples"), "source is representations or samples")
    batch = _batch(objective)
    initialize = getattr(objective, "initialize", None)
    if initialize is not None:
        initialize(batch)
    total, parts = objective.loss(batch, 0)
    require(total.ndim == 0 and bool(torch.isfinite(total)), "the loss is one finite number")
    require(all(torch.isfinite(torch.as_tensor(part)) for part in parts.values()), "each part is one finite number")
    total.backward()
    trained = {name: one for name, one in objective.named_parameters() if one.requires_grad}
    for name, parameter in trained.items():
        reached = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
        require(reached, f"the loss has a finite gradient in {name}")
    grouped = [id(one) for group in objective.parameter_groups() for one in group["params"]]
    require(sorted(grouped) == sorted(map(id, trained.values())), "parameter groups hold each parameter once")
    before = {name: one.detach().clone() for name, one in trained.items()}
    train_step(objective, batch, build_optimizer(objective, 1e-3), step=0)
    moved = any(not torch.equal(before[name], one) for name, one in trained.items())
    require(moved, "a step changes the parameters")
    if objective.source == "representations":
        bad = {**batch, **{stream: torch.full_like(batch[stream], torch.nan) for stream in STREAMS}}
        before = {name: one.detach().clone() for name, one in trained.items()}
        refuses("a batch that is not finite", train_step, objective, bad, build_optimizer(objective, 1e-3))
        kept = all(torch.equal(before[name], one) for name, one in trained.items())
        require(kept, "a refused batch leaves the weights as they were")
    require(hasattr(objective.product(), "save_pretrained"), "the product can be saved")


def check_probe(cls: Any, **settings: Any) -> None:
    """Check what a probe reads and what it gives back, on rows of which one layer holds the labels."""
    import numpy as np

    from vlsae.probes.base import READS

    probe = cls(**settings)
    require(probe.reads in READS, f"reads is one of {', '.join(READS)}")
    representations, targets = _probed(probe.reads)
    before = {site: rows.read().clone() for site, rows in representations}
    probe.check(targets)
    result = probe.measure(representations, targets)
    again = cls(**settings).measure(representations, targets)
    require(bool(result.metrics), "a probe gives numbers")
    for name, measure in result.metrics.items():
        low, high = measure.low, measure.high
        if low is not None and high is not None and np.isfinite([low, high]).all():
            require(low <= high, f"the interval of {name} has its ends in order")
    same = {name: measure.value for name, measure in result.metrics.items()}
    require(
        repr(same) == repr({name: one.value for name, one in again.metrics.items()}), "a seed gives its numbers again"
    )
    kept = all(bool((rows.read() == before[site]).all()) for site, rows in representations)
    require(kept, "the rows are left as they were")
    require(all(name in result.metrics for name in result.headline), "the headline names numbers that are there")


def _probed(reads: str) -> Any:
    """Return small representations and targets: two layers, of which the second holds the labels; groups of two."""
    import numpy as np
    import pyarrow as pa
    import torch

    from vlsae.dictionaries import VLSAE
    from vlsae.probes.base import Representations, TrainedDictionary
    from vlsae.probes.targets import Targets

    if reads == "nothing":
        return Representations(), Targets(pa.table({"sample_id": pa.array([], pa.string())}))
    generator, n = np.random.default_rng(0), 80
    truth, kind = generator.integers(0, 2, n), generator.integers(0, 3, n)
    noise = generator.normal(size=(2, n, WIDTH))
    noise[1, :, 0] += 3 * truth
    noise[1, :, 1] += 3 * kind
    samples = pa.table(
        {
            "sample_id": [f"s{row}" for row in range(n)],
            "texts": [[f"a {('cold', 'warm')[truth[row]]} thing {row}"] for row in range(n)],
            "labels": [{"truth": int(truth[row]), "kind": "abc"[kind[row]], "size": float(row)} for row in range(n)],
            "group": [f"g{row // 2}" for row in range(n)],
            "split": ["validation" if row % 10 < 4 else "train" for row in range(n)],
        }
    )
    streams = ("vision", "language")
    sites = {f"{stream}.{place}": rows for stream in streams for place, rows in zip((1, 2), noise)}
    trained = None
    if reads == "dictionary":
        torch.manual_seed(0)
        trained = TrainedDictionary(VLSAE(WIDTH, 8, 2).eval(), {stream: f"{stream}.2" for stream in streams})
    return Representations.of_arrays(sites, samples, dictionary=trained).with_concepts(), Targets(samples)


def check_task(cls: Any, **settings: Any) -> None:
    """Check results, items and resuming of a task, on ``model`` (default: the bundled CLIP) and a small dictionary."""
    import torch

    from vlsae.dictionaries import VLSAE
    from vlsae.enhancement.task import Work
    from vlsae.models import CLIP

    model = settings.pop("model", None) or CLIP()
    torch.manual_seed(0)
    dictionary = settings.pop("dictionary", None) or VLSAE(model.sites()["vision.embedding"].width, 128, 8).eval()
    results, works = [], []
    for _ in range(2):
        task, work = cls(**settings), Work(resamples=20)
        task.work = work
        before = task.evaluate(model, None) if task.compares else None
        results.append((before, task.evaluate(model, dictionary)))
        works.append(work)
    before, after = results[0]
    for result in (before, after):
        numbers = {} if result is None else result.metrics
        require(set(getattr(result, "headline", ())) <= set(numbers), "the headline names metrics of the result")
    require(bool(after.metrics), "a result has metrics")
    compared = before is None or bool(set(before.metrics) & set(after.metrics))
    require(compared, "before and after share a metric, unless compares is false")
    again = results[1][1].metrics
    same = all(value == again[name] for name, value in after.metrics.items() if "time" not in name)
    require(set(again) == set(after.metrics) and same, "equal settings and seed give equal numbers, times apart")
    items = [dict(item) for item in works[0].items]
    require(items == [dict(item) for item in works[1].items], "equal settings and seed give equal items")
    task.evaluate(model, dictionary)
    require(len(works[1].items) == len(items), "items that are known are not answered again")


def _batch(objective: Any) -> Any:
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)
    if objective.source == "representations":
        rows = {stream: torch.randn(ROWS, WIDTH, generator=generator) for stream in STREAMS}
        classes = len(getattr(objective, "classes", ()))
        labels = {f"labels/{stream}": torch.arange(ROWS) % classes for stream in STREAMS if classes}
        return {**rows, **labels}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    return objective.prepare(pixels, ["red circle", "blue square", "green triangle", "a circle"])


def _with_width(cls: Any, settings: dict[str, Any]) -> Any:
    import torch

    torch.manual_seed(0)
    return cls(**{**({"width": WIDTH} if "width" in parameters_of(cls) else {}), **settings})
