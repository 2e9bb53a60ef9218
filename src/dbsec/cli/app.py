"""``dbsec``: finds its commands by file name, and imports only the one that runs."""

from __future__ import annotations

import ast
import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperGroup

from dbsec import __version__, discovery, log
from dbsec.cli import commands
from dbsec.cli.parameters import lighten, lightened
from dbsec.errors import ProgramMissing

_EXTRAS = {"pglast": "migrations"}  # what brings a package, where it is not the lab


class LazyGroup(TyperGroup):
    """Lists commands from the folder and imports one when it is called; help costs no import."""

    _in_help = False

    def list_commands(self, ctx: Any) -> list[str]:
        return [name.replace("_", "-") for name in discovery.names_in(commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = cmd_name.replace("-", "_")
        if module not in discovery.names_in(commands):
            return None
        if ctx.resilient_parsing or self._in_help:
            return _placeholder(cmd_name, module)
        loaded = _import(cmd_name, module)
        command = typer.main.get_command(loaded.COMMAND)
        command.name = cmd_name
        command.help = command.help or loaded.__doc__
        lighten(command)
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        return lightened(super().get_params(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self._in_help = True
        try:
            super().format_commands(ctx, formatter)
        finally:
            self._in_help = False


def _import(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(f"{commands.__name__}.{module}")
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "dbsec":
            raise
        extra = _EXTRAS.get(exc.name.partition(".")[0], "lab")
        raise ProgramMissing(
            f"'dbsec {name}' needs '{exc.name}', which is not installed", hint=f"pip install 'dbsec[{extra}]'"
        ) from exc


def _placeholder(name: str, module: str) -> Any:
    source = Path(commands.__path__[0]) / f"{module}.py"
    doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    only_help = typer.Typer(add_completion=False)
    only_help.command(name=name, short_help=doc.partition("\n")[0])(lambda: None)
    return typer.main.get_command(only_help)


APP = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@APP.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what is done to stderr; secrets are masked."),
) -> None:
    """Harden the data layer of a running service, attack it before and after, and keep the evidence."""
    if version:
        typer.echo(f"dbsec {__version__}")
        raise typer.Exit
    log.to_stream(sys.stderr, level=logging.INFO if verbose else logging.WARNING)
