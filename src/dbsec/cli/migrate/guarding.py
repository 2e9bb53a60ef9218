"""``dbsec migrate guard``: the event triggers that see what no linter can."""

from __future__ import annotations

import typer

APP = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
