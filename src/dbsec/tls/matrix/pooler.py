"""PgBouncer's own side: its file and its console, to take its controls away and to put them back."""

from __future__ import annotations

import configparser
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from dbsec.errors import ApplyError, ConfigError
from dbsec.pg import Conninfo, connect
from dbsec.tls.data_folder import DataFolder

_NOTE = "dbsec_tls_drill.ini"  # the site's own file, beside it while another is in force
_BUNDLE = "dbsec_tls_drill_ca.crt"


@dataclass(frozen=True, slots=True)
class Pooler:
    """``ini``: the path of pgbouncer.ini; ``console``: a login of its console (database pgbouncer)."""

    ini: Path
    console: Conninfo

    @property
    def log(self) -> Path | None:
        """Return the file that it logs to; None where it has none."""
        named = self._read()["pgbouncer"].get("logfile")
        return self.ini.parent / named if named else None

    @contextmanager
    def changed(self, settings: Mapping[str, str], *, ca: bytes = b"") -> Iterator[None]:
        """Run the block under other settings; the file is put back, by the next drill if not by this.

        ``ca`` (PEM): CAs of clients that are trusted too. The console's connection that puts back is open before, so
        that no setting shuts it out.
        """
        parser = self._read()
        own = parser["pgbouncer"]
        if ca:
            bundle = (self.ini.parent / own.get("client_tls_ca_file", "")).read_bytes() + ca
            self._folder.write(_BUNDLE, bundle)
            settings = {**settings, "client_tls_ca_file": str(self.ini.parent / _BUNDLE)}
        own.update(settings)
        text = io.StringIO()
        parser.write(text)
        before = self.ini.read_bytes()
        inner = self._folder.read(_NOTE) is not None  # what is noted is the site's own
        with connect(self.console.but(dbname="pgbouncer")) as console:
            if not inner:
                self._folder.write(_NOTE, before, mode=0o600)
            try:
                self._folder.write(self.ini.name, text.getvalue().encode())
                _reload(console)
                yield
            finally:
                self._put_back(console, before, keep=(_NOTE,) if inner else ())

    def recover(self) -> bool:
        """Put back the file that a drill has left changed; True where there was something.

        Errors: ``ConnectError`` where the file that is in force lets nobody to the console: then send SIGHUP.
        """
        own = self._folder.read(_NOTE)
        if own is None:
            return False
        self._folder.write(self.ini.name, own)
        with connect(self.console.but(dbname="pgbouncer")) as console:
            self._put_back(console, own)
        return True

    def _put_back(self, console: psycopg.Connection[Any], before: bytes, *, keep: tuple[str, ...] = ()) -> None:
        self._folder.write(self.ini.name, before)
        _reload(console)
        for name in {_BUNDLE, _NOTE}.difference(keep):
            self._folder.restore(name, None)

    @property
    def _folder(self) -> DataFolder:
        return DataFolder(self.ini.parent)

    def _read(self) -> configparser.ConfigParser:
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=(";", "#"))
        parser.optionxform = str  # type: ignore[assignment,method-assign] # databases are told apart by case
        try:
            parser.read_string(self.ini.read_text("utf-8"))
        except (OSError, configparser.Error) as exc:
            raise ConfigError(f"cannot read '{self.ini}'", hint="name pgbouncer.ini") from exc
        if not parser.has_section("pgbouncer"):
            raise ConfigError(f"'{self.ini}' has no section [pgbouncer]", hint="name pgbouncer.ini")
        return parser


def _reload(console: psycopg.Connection[Any]) -> None:
    try:
        psycopg.ClientCursor(console).execute("RELOAD")  # the console knows the simple protocol alone
    except psycopg.Error as exc:
        raise ApplyError(f"PgBouncer does not reload: {exc}", hint="see its log") from exc
