"""A folder of migrations: ``NNN_name.sql`` or ``.toml``, its way back ``.down.sql``, what must hold ``.check.sql``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from msgspec.structs import replace

from dbsec.errors import ConfigError, UsageError
from dbsec.migrations.reading import marks, source
from dbsec.migrations.script import Phase, Script, Unread

_NAMED = re.compile(r"(?P<stem>(?P<number>\d{3,18})_(?P<name>\w[\w-]*))(?P<part>\.down|\.check)?\.(?P<form>sql|toml)\Z")
_SERIAL = 10**7  # above it a number is a time, of which most are missing


class FileKind(StrEnum):
    """What runs a migration: the executor of statements, or the backfill engine."""

    SQL = "sql"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration. ``name`` is without number and ending; ``checksum`` is SHA-256 in hex, line ends as LF."""

    number: int
    name: str
    phase: Phase
    kind: FileKind
    path: Path
    checksum: str
    down: Path | None = None
    check: Path | None = None

    @property
    def label(self) -> str:
        """Return number and name as the file has them."""
        return self.path.name.removesuffix(f".{'toml' if self.kind is FileKind.BACKFILL else 'sql'}")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    number: int
    stem: str
    name: str
    part: str
    form: str


def find(folder: Path, *, known: Collection[int] = ()) -> list[Migration]:
    """Read a folder's migrations, by number; files that bear no number are none of them.

    ``known``: numbers that were applied, whose files may be gone. Errors: ``UsageError`` for a folder that is not there
    or holds none; ``ConfigError`` for a missing phase, a number that is missing or twice there, a way back of nothing,
    a file that is not UTF-8, a symbolic link.
    """
    named = [_parsed(path) for path in _listed(folder)]
    found = [file for file in named if file is not None]
    forward = [file for file in found if not file.part]
    if not forward:
        raise UsageError(f"folder '{folder}' holds no migration", hint="name it NNN_name.sql, as 001_add_phone.sql")
    by_stem = _unique(forward)
    _check_numbers(sorted(file.number for file in forward), set(known), folder)
    beside = _beside(found, by_stem)
    made = [_read(file, beside) for file in forward]
    return sorted(made, key=lambda migration: migration.number)


def script_of(path: Path) -> Script:
    """Read one file as it is sent to PostgreSQL: a command of psql in it is an error of its grammar.

    Errors: ``ConfigError`` for what is not text, a phase that is none, a file of another tool (only a part of it runs).
    """
    raw = _text(path)
    scripts, unread = source.read([str(path)])
    _refuse(unread)
    if scripts[0].tool != "sql":
        raise ConfigError(f"'{path}' is a file of {scripts[0].tool}", hint="keep only the SQL that goes forward")
    return replace(scripts[0], text=raw)


def digest(path: Path) -> str:
    """Return SHA-256 of a file's text in hex; how its lines end does not count."""
    return hashlib.sha256(_text(path).replace("\r\n", "\n").replace("\r", "\n").encode()).hexdigest()


def ignored(folder: Path) -> list[str]:
    """Name the ``.sql`` and ``.toml`` files that bear no number: nothing runs them."""
    return [path.name for path in _listed(folder) if _parsed(path) is None]


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"there is no folder '{folder}'", hint="name the folder of the migrations, as db/migrations")
    entries = sorted(folder.iterdir())
    return [path for path in entries if path.suffix in (".sql", ".toml") and not path.name.startswith(".")]


def _parsed(path: Path) -> _File | None:
    match = _NAMED.match(path.name)
    if match is None:
        if path.name[0].isdigit():
            raise ConfigError(f"'{path}' begins as a migration and is none", hint="name it NNN_name.sql")
        return None
    if path.is_symlink() or not path.is_file():
        what = "a symbolic link" if path.is_symlink() else "no file"
        raise ConfigError(f"'{path}' is {what}: what it says could change unseen", hint="put the file itself there")
    if match["part"] and match["form"] != "sql":
        raise ConfigError(f"'{path}': only SQL goes back or checks", hint=f"{match['stem']}{match['part']}.sql")
    return _File(
        path, int(match["number"]), match["stem"], match["name"], (match["part"] or "").removeprefix("."), match["form"]
    )


def _unique(forward: Iterable[_File]) -> Mapping[str, _File]:
    by_number: dict[int, _File] = {}
    for file in forward:
        if (other := by_number.setdefault(file.number, file)) is not file:
            raise ConfigError(
                f"number {file.number} is there twice: '{other.path.name}' and '{file.path.name}'",
                hint="give the newer one the next free number",
            )
    return {file.stem: file for file in by_number.values()}


def _check_numbers(numbers: list[int], known: set[int], folder: Path) -> None:
    serial = [number for number in numbers if number < _SERIAL]
    for missing in sorted(set(range(serial[0], serial[-1])) - set(serial) - known) if serial else ():
        raise ConfigError(
            f"number {missing:03} is missing in '{folder}'",
            hint="bring its file back, or number the files without a gap",
        )


def _beside(found: Iterable[_File], by_stem: Mapping[str, _File]) -> dict[tuple[str, str], Path]:
    beside = {}
    for file in found:
        if file.part and file.stem not in by_stem:
            what = "the way back" if file.part == "down" else "the check"
            raise ConfigError(f"'{file.path}' is {what} of nothing", hint=f"ls {file.path.parent}/{file.number:03}_*")
        if file.part:
            _text(file.path)
            beside[file.stem, file.part] = file.path
    return beside


def _read(file: _File, beside: Mapping[tuple[str, str], Path]) -> Migration:
    kind = FileKind.BACKFILL if file.form == "toml" else FileKind.SQL
    phase = _phase(file.path, kind)
    if phase is None:
        mark = "#" if kind is FileKind.BACKFILL else "--"
        raise ConfigError(
            f"'{file.path}' does not say its phase", hint=f"first line: {mark} dbsec: phase expand|backfill|contract"
        )
    if kind is FileKind.BACKFILL and phase is not Phase.BACKFILL:
        raise ConfigError(f"'{file.path}' fills rows and says phase {phase}", hint="# dbsec: phase backfill")
    ways = (beside.get((file.stem, "down")), beside.get((file.stem, "check")))
    return Migration(file.number, file.name, phase, kind, file.path, digest(file.path), *ways)


def _phase(path: Path, kind: FileKind) -> Phase | None:
    if kind is FileKind.SQL:
        return script_of(path).phase
    unread: list[Unread] = []
    lines = enumerate(_text(path).splitlines(), 1)
    phase = marks.phase_of(str(path), [(n, line.lstrip("# \t")) for n, line in lines if line.startswith("#")], unread)
    _refuse(unread)
    return phase


def _text(path: Path) -> str:
    """Decode a file; a byte order mark becomes a blank, as ``source`` has it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"'{path}' is not UTF-8: byte 0x{exc.object[exc.start]:02x} at offset {exc.start}",
            hint=f"iconv -f LATIN1 -t UTF-8 '{path}'",
        ) from exc
    except OSError as exc:
        raise ConfigError(f"cannot read '{path}': {exc.strerror}", hint=f"ls -l '{path}'") from exc
    return " " + text[1:] if text.startswith("\ufeff") else text


def _refuse(unread: Iterable[Unread]) -> None:
    for one in unread:
        raise ConfigError(str(one), hint=one.hint)
