"""Copy the reference deployment into a repository: migrations, roles, examples, scripts, dbsec.toml."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

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
    written, kept = _copy(deployment_folder() / "db", folder / "db")
    config = folder / "dbsec.toml"
    if config.exists():
        kept.append(config)
    else:
        config.write_text(_CONFIG)
        written.append(config)
    names = {"written": sorted(map(str, written)), "kept": sorted(map(str, kept))}
    if form is Format.JSON:
        output.envelope("init", result=names)
        return
    for verb, paths in names.items():
        for path in paths:
            print(f"{verb:<8} {path}")


def _copy(source: Path, target: Path) -> tuple[list[Path], list[Path]]:
    written, kept = [], []
    for path in sorted(p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        copy = target / path.relative_to(source)
        if copy.exists():
            kept.append(copy)
            continue
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copy.chmod(0o755 if path.suffix == ".sh" else 0o644)
        written.append(copy)
    return written, kept


COMMAND = typer.Typer(add_completion=False, rich_markup_mode=None)
COMMAND.command(help=init.__doc__)(init)
