"""``dbsec migrate lint --fix``: shows the difference, asks, writes."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING

import typer

from dbsec.migrations import fix as fixes

if TYPE_CHECKING:
    from dbsec.cli.migrate.judging import Judged


def fix(judged: Judged, *, text: bool, yes: bool) -> bool:
    """Plan the mechanical fixes and show them; write them where the user says so. True where files were written.

    The difference goes to stdout beside findings as text; to stderr where stdout is for another program.
    """
    schema = copy.deepcopy(judged.schema)
    changes, left = fixes.plan(judged.result, judged.scripts, schema=schema, options=judged.options)
    for change in changes:
        print(change.diff, end="", file=sys.stdout if text else sys.stderr)
    sys.stdout.flush()
    for one in left:
        finding = one.located.finding
        place = f"{finding.where['file']}:{finding.where['line']}"
        print(f"dbsec: not fixed: {place}: {finding.code} {finding.target}: {one.reason}", file=sys.stderr)
    if not changes:
        print("dbsec: there is nothing to fix mechanically", file=sys.stderr)
        return False
    if not yes and not _agreed(len(changes)):
        return False
    fixes.apply(changes)
    for change in changes:
        print(f"dbsec: wrote '{change.path}' ({change.fixed} findings mended)", file=sys.stderr)
    return True


def _agreed(number: int) -> bool:
    if not sys.stdin.isatty():
        print("dbsec: nothing was written\n  try: dbsec migrate lint --fix --yes", file=sys.stderr)
        return False
    return typer.confirm(f"Write {number} files?", err=True)
