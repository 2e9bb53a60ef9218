"""Metrics as text and file."""

from __future__ import annotations

import stat
from pathlib import Path

from dbsec import metrics
from dbsec.metrics import Sample


def test_samples_of_one_name_are_one_gauge() -> None:
    told = metrics.text(
        [
            Sample("a_bytes", 1, "Size.", {"of": "x"}),
            Sample("a_bytes", 2, "Size.", {"of": 'y"\n'}),
            Sample("b", 0.5, "B."),
        ]
    )
    assert told.splitlines() == [
        "# HELP a_bytes Size.",
        "# TYPE a_bytes gauge",
        'a_bytes{of="x"} 1.0',
        'a_bytes{of="y\\"\\n"} 2.0',
        "# HELP b B.",
        "# TYPE b gauge",
        "b 0.5",
    ]


def test_a_file_is_replaced_and_everyone_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "dbsec_backup.prom"
    for value in (1, 2):
        metrics.write(file, [Sample("a", value, "A.")])
    assert file.read_text().endswith("a 2.0\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
