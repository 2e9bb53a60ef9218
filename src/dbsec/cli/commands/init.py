"""Copy the reference deployment into a repository: migrations, roles, examples, scripts, dbsec.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbsec import files
from dbsec.cli import output
from dbsec.cli.output import Format
from dbsec.errors import UsageError
from dbsec.lab.deployment import deployment_folder

_CONFIG = """\
# What must hold of the service; drills and throttles judge against it.
[slo]
availability = 0.999
p99_ms = 500

# What a restore may lose and last, and how far back it must reach.
[objectives]
rpo_s = 60
rto_s = 900
recovery_window_days = 14
"""


def init(
    folder: Annotated[Path, typer.Argument(help="The repository; db/ and dbsec.toml are made in it.")] = Path(),
    form: Annotated[Format, typer.Option("--format", help="text or json")] = Format.TEXT,
) -> None:
    """Copy the reference deployment into a repository; a file that is there already is kept, and named."""
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder", hint=f"mkdir -p {folder}")
    try:
        written, kept = _copy(deployment_folder() / "db", folder / "db")
        config = folder / "dbsec.toml"
        if config.exists():
            kept.append(config)
        else:
            files.write_atomic(config, _CONFIG, mode=0o644)
            written.append(config)
    except OSError as exc:
        raise UsageError(f"cannot write to '{folder}': {exc}", hint="choose another folder") from exc
    names = {"written": sorted(map(str, written)), "kept": sorted(map(str, kept))}
    if form is Format.JSON:
        output.envelope("init", result=names)
        return
    for verb, paths in names.items():
        for path in paths:
            print(f"{verb:<8} {path}")


def _copy(source: Path, target: Path) -> tuple[list[Path], list[Path]]:
    written, kept = [], []
    for path in sorted(p for p in source.rglob("*") if p.is_file() and _is_ours(p)):
        copy = target / path.relative_to(source)
        if copy.exists():
            kept.append(copy)
            continue
        files.make_folder(copy.parent, mode=0o755)  # the servers' accounts read db/, whatever the umask
        files.write_atomic(copy, path.read_bytes(), mode=0o755 if path.suffix == ".sh" else 0o644)
        written.append(copy)
    return written, kept


def _is_ours(path: Path) -> bool:
    """Leave out what was made in the deployment and is nobody else's: keys and certificates."""
    return path.parent.name != "ssl" or path.name in ("README.md", ".gitignore")


COMMAND = typer.Typer(add_completion=False, rich_markup_mode=None)
COMMAND.command(help=init.__doc__)(init)
