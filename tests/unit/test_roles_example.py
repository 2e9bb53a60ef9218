"""The audit section of db/postgresql.conf.example is what dbsec sets."""

from __future__ import annotations

import re
from pathlib import Path

from dbsec.roles import audit_log

EXAMPLE = Path(__file__).resolve().parents[2] / "db/postgresql.conf.example"


def test_the_example_holds_each_setting_of_the_audit_trail_and_no_other_value():
    written = dict(re.findall(r"^(\w+) = '([^']*)'", EXAMPLE.read_text(), re.MULTILINE))
    assert {name: written.get(name) for name in audit_log.SETTINGS} == audit_log.SETTINGS
