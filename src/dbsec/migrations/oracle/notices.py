"""PostgreSQL's own words at DEBUG1: which work a statement did, and which proof spared it some."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dbsec.migrations.effects.model import Work

# elog and errmsg_internal: never translated. Source: tablecmds.c, index.c of 14 to 18.
_WORK = (
    (Work.REWRITE, re.compile(r'rewriting table "(?P<table>.+)"\Z')),
    (Work.SCAN, re.compile(r'verifying table "(?P<table>.+)"\Z')),
    (Work.FK_SCAN, re.compile(r'validating foreign key constraint "(?P<constraint>.+)"\Z')),
    (
        Work.BUILD,
        re.compile(r'building index "(?P<index>.+)" on table "(?P<table>.+)" (?:serially|with request for .*)\Z'),
    ),
)
_PROOFS = (
    re.compile(r"existing constraints on column .* are sufficient to prove that it does not contain nulls\Z"),
    re.compile(
        r'(?:updated )?partition constraint for (?:table|default partition) ".+" is implied by existing constraints\Z'
    ),
)


@dataclass(frozen=True, slots=True)
class Notice:
    """A message of the server: its severity (DEBUG, NOTICE, WARNING …), SQLSTATE and text."""

    severity: str
    sqlstate: str
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """Work as the server tells it, without a schema: ``table``, or ``constraint`` where only that is named."""

    work: Work
    table: str = ""
    constraint: str = ""
    index: str = ""


def work_in(notices: list[Notice]) -> list[Told]:
    """Read what was rewritten, scanned and built; the server's own temporary and TOAST relations are left out."""
    found: list[Told] = []
    for notice in notices:
        for work, pattern in _WORK:
            if match := pattern.match(notice.text):
                told = Told(work, **match.groupdict())
                if not told.table.startswith(("pg_toast", "pg_temp_")) and told not in found:
                    found.append(told)
    return found


def proofs_in(notices: list[Notice]) -> tuple[str, ...]:
    """Read why a scan was spared."""
    return tuple(notice.text for notice in notices if any(proof.match(notice.text) for proof in _PROOFS))
