"""``dbsec migrate plan | up | down | status | resume``: run a release's migrations without a queue in front of the service."""

from __future__ import annotations

import typer


def add(command: typer.Typer) -> None:
    """Add the commands of the runner."""
