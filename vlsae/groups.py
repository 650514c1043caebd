"""Where the configurations lie, and which groups and choices they offer: by file names alone, so that help is fast."""

from __future__ import annotations

from pathlib import Path

from vlsae.errors import MissingFile


def config_dir() -> Path:
    """Return the folder of configurations: the checkout's ``configs``, or ``vlsae/configs`` of an installed wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "configs"
    if (package.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return package / "configs"


def own_dir(folder: str | Path | None) -> Path | None:
    """Return a user's own folder of configurations as an absolute path; ``MissingFile`` where there is none."""
    if folder is None:
        return None
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise MissingFile(f"There is no configuration folder {path}.", "--config-dir names a folder of YAML files.")
    return path


def groups(folder: str | Path | None = None) -> dict[str, list[str]]:
    """Return config group → sorted choices, of the shipped configurations, a user's own folder, and plug-ins."""
    roots = [root for root in (config_dir(), own_dir(folder)) if root is not None and root.is_dir()]
    names = sorted({child.name for root in roots for child in root.iterdir() if _is_group(child)})
    return {name: found for name in names if (found := choices(name, folder))}


def choices(group: str, folder: str | Path | None = None, plugins: bool = True) -> list[str]:
    """Return the choices of one config group."""
    from vlsae.plugins import registered

    roots = [root for root in (config_dir(), own_dir(folder)) if root is not None]
    files = {path.stem for root in roots for path in (root / group).glob("*.yaml")}
    own = {name for kind, name in registered if kind == group} if plugins else set()
    return sorted(files | own)


def _is_group(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "_"))
