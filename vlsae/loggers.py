"""Where metrics go besides the run's own ``metrics.jsonl``: nowhere, or to Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from vlsae.bounds import OneOf
from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.runs import Run


#: Bytes of a W&B log that holds nothing yet, and how long one is waited for.
HEADER_BYTES, SETTLE_SECONDS = 7, 20.0


class Logger(ABC):
    """A second home for a run's metrics. Construction is cheap; ``start`` connects."""

    @abstractmethod
    def start(self, run_id: str, folder: str, config: Mapping[str, Any]) -> None:
        """Begin to log a run; ``run_id`` names it there, ``folder`` is the run's own directory."""

    @abstractmethod
    def log(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Log one step's values under ``split/name``."""

    @abstractmethod
    def finish(self, summary: Mapping[str, float | None], exit_code: int = 0) -> None:
        """Log the final numbers and close."""

    def describe(self, lineage: Mapping[str, Any]) -> None:
        """Log what the run was made from, known once it is done: its id, parents, fingerprint and command."""
        return

    def media(self, folder: str) -> None:
        """Log the figures and the page that lie in the run's folder, where the user allowed it."""
        return


class NoLogger(Logger):
    """Logs nothing more."""

    def start(self, run_id: str, folder: str, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, float | None], exit_code: int = 0) -> None:
        """Do nothing."""


class WandB(Logger):
    """Weights & Biases; ``mode=offline`` writes into the run's folder and sends nothing.

    Metrics, configuration and lineage are logged. Figures and the report, which may show the data, only with
    ``upload_media``.
    """

    def __init__(
        self,
        *,
        project: str = "vlsae",
        entity: str | None = None,
        mode: Annotated[str, OneOf("offline", "online", "disabled")] = "offline",
        tags: Sequence[str] = (),
        upload_media: bool = False,
    ) -> None:
        self.project = project
        self.entity = entity
        self.mode = mode
        self.tags = list(tags)
        self.upload_media = upload_media
        self._run: Any = None

    def start(self, run_id: str, folder: str, config: Mapping[str, Any]) -> None:
        """Begin a W&B run that carries our run's id; a resumed run goes on under the same one.

        Raises :class:`~vlsae.errors.UserError` where W&B cannot be reached or refuses.
        """
        import wandb

        try:
            self._run = wandb.init(
                project=self.project,
                entity=self.entity,
                mode=cast(Literal["offline", "online", "disabled"], self.mode),
                tags=self.tags,
                name=run_id,
                id=run_id.replace("/", "-"),
                resume="allow" if self.mode == "online" else None,
                dir=folder,
                config=dict(config),
                # An upstream run that this one makes has a W&B run of its own at the same time.
                reinit="create_new",
                # Git state and the command, its secrets masked, are in the manifest. Of themselves W&B's records would
                # hold the command as it was typed, and facts of the machine.
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    disable_git=True,
                    save_code=False,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_disable_machine_info=True,
                ),
            )
        except wandb.errors.Error as error:
            mend = "Use logger.mode=offline and `wandb sync` later, or logger=none."
            raise UserError(f"Weights & Biases cannot be used: {error}", mend) from error

    def log(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Log one step's values under ``split/name``."""
        named = {f"{split}/{name}": value for name, value in values.items()}
        self._run.log({**named, "epoch": epoch, "global_step": step})

    def describe(self, lineage: Mapping[str, Any]) -> None:
        """Put the lineage beside the configuration, under ``lineage``."""
        self._run.config.update({"lineage": dict(lineage)}, allow_val_change=True)

    def media(self, folder: str) -> None:
        """Log ``figures/*.png`` and ``report.html``, only with ``upload_media``."""
        if not self.upload_media:
            return
        import wandb

        figures = sorted(Path(folder).glob("figures/*.png"))
        content: dict[str, Any] = {f"figures/{file.stem}": wandb.Image(str(file)) for file in figures}
        page = Path(folder) / "report.html"
        if page.is_file():
            content["report"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
        if content:
            self._run.log(content)

    def finish(self, summary: Mapping[str, float | None], exit_code: int = 0) -> None:
        """Write the summary and close; online, waits until all is sent."""
        if self._run is None:
            return
        self._run.summary.update({name: value for name, value in summary.items() if value is not None})
        self._run.finish(exit_code=exit_code)
        if self.mode == "offline":
            _settle(Path(self._run.dir).parent)
        self._run = None


def _settle(folder: Path) -> None:
    """Wait until the log of an offline run is written whole: W&B's own process writes it after ``finish`` returns."""
    sizes: list[int] = []
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        sizes.append(sum(file.stat().st_size for file in folder.glob("*.wandb")))
        if sizes[-1] > HEADER_BYTES and len(sizes) > 3 and len(set(sizes[-4:])) == 1:
            return
        time.sleep(0.1)


@contextlib.contextmanager
def started(config: Mapping[str, Any], run: Run) -> Iterator[Logger]:
    """Start the logger of a run's configuration, and finish it with the run's summary, whatever happens within.

    It gets the configuration as the run stores it: secrets masked, the environment unresolved.
    """
    import yaml

    from vlsae.config import build
    from vlsae.environment import with_environment

    logger: Logger = build(with_environment(config["logger"]))
    stored = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    logger.start(run.id, str(run.path), stored)
    try:
        yield logger
    except BaseException:
        logger.finish({}, exit_code=1)
        raise
    logger.describe({name: run.manifest[name] for name in ("run_id", "parents", "fingerprint", "command", "seeds")})
    logger.media(str(run.path))
    logger.finish(_summary(run))


def _summary(run: Run) -> dict[str, float | None]:
    path = run.path / "summary.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.exists() else {}
    return {name: metric["value"] for name, metric in metrics.items()}
