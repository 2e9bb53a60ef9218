"""The search for a value that must be gone: exact counts, no value shown, and nothing passed over in silence."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from dbsec.errors import UsageError
from dbsec.migrations import residue, residue_places
from dbsec.migrations.residue import Canary, Place, Searched, Trace, search

VALUE = "+49'30-123456"
CANARY = Canary.of(VALUE)


def _found(path: Path, *canaries: Canary) -> dict[tuple[str, str], int]:
    searched = search(canaries or [CANARY], residue_places.of_copy(path, "copy"))
    assert searched.unread == ()
    counts: dict[tuple[str, str], int] = {}
    for trace in searched.traces:
        key = (trace.canary, trace.form)
        counts[key] = counts.get(key, 0) + trace.count
    return counts


def test_a_value_is_counted_once_wherever_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, raw = tmp_path / "16384", VALUE.encode()
    file.write_bytes(b"x" * 7 + raw + b"yy" + raw * 3 + b"z" * 40 + raw)
    longer = Canary.of("a much longer value than the other one, so that the overlap is larger")
    for chunk in (1, 5, 13, 14, 17, 64, 4096):
        monkeypatch.setattr(residue, "_CHUNK", chunk)  # hook: ok a size
        assert _found(file, CANARY, longer) == {(CANARY.name, "plain"): 5}, chunk


def test_forms_that_postgresql_writes(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"'\\x" + VALUE.encode().hex().encode() + b"' '" + VALUE.replace("'", "''").encode())
    assert _found(tmp_path) == {(CANARY.name, "hex"): 1, (CANARY.name, "sql"): 1}


def test_a_value_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "heap").write_bytes(VALUE.encode())
    searched = search([CANARY], residue_places.of_copy(tmp_path, "copy"))
    shown = f"{CANARY!r} {searched!r} {residue.told(searched)!r}"
    assert searched.traces
    assert VALUE not in shown
    assert VALUE.encode().hex() not in shown


def test_packed_files_are_opened_or_told(tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.write_bytes(b"x" * 100_000 + VALUE.encode())
    with tarfile.open(tmp_path / "base.tar.gz", "w:gz") as archive:
        archive.add(inside)
    (tmp_path / "segment.gz").write_bytes(gzip.compress(VALUE.encode() * 2))
    inside.unlink()
    assert _found(tmp_path) == {(CANARY.name, "plain"): 3}
    (tmp_path / "sealed.zst").write_bytes(b"(/")
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    searched = search([CANARY], residue_places.of_copy(tmp_path, "copy"))
    assert len(searched.unread) == 2
    assert searched.gone_since(searched) is False


def test_what_is_not_read_or_was_never_found_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nothing")
    clean = search([CANARY], residue_places.of_copy(tmp_path, "copy"))
    before = Searched(traces=(Trace("table", "t", CANARY.name, "plain", 1),))
    assert clean.gone_since(before) is True
    assert clean.gone_since(clean) is None
    folder = search([CANARY], [Place("unread", "a folder", tmp_path)])
    assert folder.unread
    assert folder.gone_since(before) is None
    gone = search([CANARY], [Place("table", "t", tmp_path / "deleted meanwhile")])
    assert gone.unread == ()


def test_a_value_that_chance_would_find_is_refused() -> None:
    with pytest.raises(UsageError, match="by chance"):
        Canary.of("12345")


def test_a_packed_file_is_known_by_its_bytes_and_links_are_followed(tmp_path: Path) -> None:
    import gzip
    import zipfile

    from dbsec.migrations.residue import files_below

    elsewhere, root = tmp_path / "wal", tmp_path / "data"
    elsewhere.mkdir()
    root.mkdir()
    (elsewhere / "1").write_bytes(b"canary-9")
    (root / "pg_wal").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    (root / "base.tgz").write_bytes(gzip.compress(b"canary-9"))
    with zipfile.ZipFile(root / "old.bin", "w") as packed:
        packed.writestr("x", "canary-9")
    found = search([Canary.of("canary-9")], files_below(root, lambda below: below.parts[0]))
    assert found.kinds == {"pg_wal": 1, "base.tgz": 1}
    assert len(found.unread) == 1
