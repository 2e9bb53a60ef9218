"""``dbsec migrate new``: write the files of a change in steps that the running release survives."""

from __future__ import annotations

import typer

APP = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
