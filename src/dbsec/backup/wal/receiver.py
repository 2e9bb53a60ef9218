"""Receives WAL as it is written, and seals it within seconds: what a crash of the server loses is what came after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from dbsec.backup.base.replication import Replication, open_replication
from dbsec.backup.errors import WrongCluster
from dbsec.backup.repository import Repository, read_marker
from dbsec.backup.wal import frontier, slot
from dbsec.backup.wal.names import Segment
from dbsec.backup.wal.push import push
from dbsec.backup.wal.receiving import Stream
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConnectError, GaveUp
from dbsec.pg import Conninfo, connect
from dbsec.pg.lsn import Lsn
from dbsec.progress import Progress, Silent
from dbsec.store import StoreUnavailable

NAME: Final = "dbsec_receiver"  # what synchronous_standby_names would say
_REMOVED: Final = "58P01"  # undefined_file: WAL that is no longer there
_FINAL: Final = ("28", "42", "3D", "0A")  # a login that is refused, an object that is none: waiting mends nothing
_LOOK_S: Final = 10.0
_TICK_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_SILENT: Progress = Silent()


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """``every`` is how old WAL may become before it is sealed. ``unlimited``: the slot may fill the server's disk."""

    slot: str = slot.DEFAULT
    every: timedelta = timedelta(seconds=5)
    unlimited: bool = False


class Receiver:
    """One session after another, until ``ended`` says so; for one thread.

    The server hears that WAL has arrived only when the store has acknowledged it, so its slot keeps all the rest:
    whatever dies meanwhile, the next start goes on from what the repository has.
    """

    def __init__(
        self,
        repository: Repository,
        server: Conninfo,
        options: ReceiveOptions,
        *,
        ended: Callable[[], bool],
        progress: Progress = _SILENT,
        clock: Clock = SYSTEM,
    ) -> None:
        self._repository = repository
        self._server = server
        self._options = options
        self._ended = ended
        self._progress = progress
        self._clock = clock
        self._segment_bytes = read_marker(repository.store).segment_bytes
        self._watch = _Watch(server, options.slot, progress, clock)
        self.acknowledged = Lsn(0)

    def run(self) -> None:
        """Receive until ``ended``; a server, network or store that is away is asked again, with pauses up to 30 s.

        Errors: ``SlotLost``; ``WrongCluster``; ``ContentConflict`` where the archive holds another history;
        ``UsageError``; ``ConnectError`` for a login that is refused.
        """
        pause_s = _TICK_S
        try:
            while not self._ended():
                began = self.acknowledged
                try:
                    self._session()
                except (ConnectError, GaveUp, StoreUnavailable) as exc:
                    if isinstance(exc, ConnectError) and exc.sqlstate and exc.sqlstate[:2] in _FINAL:
                        raise
                    pause_s = _TICK_S if self.acknowledged != began else min(pause_s * 2, _LONGEST_PAUSE_S)
                    self._progress.step(f"{exc.message}; again in {pause_s:g} s")
                self._pause(pause_s)
        finally:
            self._watch.close()

    def _pause(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while not self._ended() and self._clock.monotonic() < until:
            self._clock.sleep(_TICK_S / 5)

    def _session(self) -> None:
        with open_replication(self._server, application_name=NAME) as session:
            who = session.identify()
            if who.system != self._repository.system:
                raise WrongCluster(
                    f"the server is of the cluster {who.system}, and the repository is of {self._repository.system}",
                    hint="give each cluster a prefix of its own",
                )
            kept = slot.ensure(session, self._options.slot, unlimited=self._options.unlimited)
            following: Segment | None = self._first(session, who.timeline, kept)
            while following is not None and not self._ended():
                following = self._follow(session, following, kept)

    def _first(self, session: Replication, timeline: int, kept: tuple[int, Lsn]) -> Segment:
        """Choose where to go on: where the repository ends on the newest timeline that it has reached, or at a hole
        that the slot can fill; where it has nothing, where the slot begins to keep WAL.
        """
        newer, begins = timeline, kept[1]
        for number, left in self._lines(session, timeline):
            for reach in frontier.reaches(self._repository, timeline=number):
                if left is not None and reach.end >= left:
                    return self._segment(newer, left)
                fillable = [max(start, kept[1]) for start, end in reach.holes if end > kept[1]]
                return self._segment(number, fillable[0] if fillable and number == kept[0] else reach.end)
            newer = number
        return self._segment(kept[0] or timeline, begins)

    def _lines(self, session: Replication, timeline: int) -> list[tuple[int, Lsn | None]]:
        """Return the server's timeline and its ancestors, newest first, each with where it was left."""
        if timeline == 1:
            return [(1, None)]
        name = f"{timeline:08X}.history"
        return [(timeline, None), *reversed(frontier.parse_history(name, self._history(session, timeline)))]

    def _history(self, session: Replication, timeline: int) -> bytes:
        """Ask for a timeline's history, and put it: without it nothing of the timeline can be restored."""
        session.send(f"TIMELINE_HISTORY {timeline}")
        result = session.result()
        raw = (result.get_value(0, 1) or b"") if result is not None and result.ntuples else b""
        while session.result() is not None:
            pass
        push(self._repository, f"{timeline:08X}.history", raw)
        return raw

    def _segment(self, timeline: int, at: Lsn) -> Segment:
        return Segment.at(timeline, at, self._segment_bytes)

    def _follow(self, session: Replication, first: Segment, kept: tuple[int, Lsn]) -> Segment | None:
        """Receive one timeline to its end; returns where the next one begins, None where the stream has ended."""
        self._progress.step(f"receiving timeline {first.timeline} from {first.start}")
        stream = Stream(
            session, self._repository, first, every_s=self._options.every.total_seconds(), clock=self._clock
        )
        try:
            after = stream.run(self._options.slot, ended=self._ended, look=self._look)
        except ConnectError as exc:
            if exc.sqlstate != _REMOVED:
                raise
            begins = self._segment(*kept)
            if first.timeline > begins.timeline or first.start >= begins.start:
                raise slot.lost(self._options.slot) from exc
            self._progress.step(
                f"the server has no WAL from {first.start} to {begins.start} any more: unless the archiver has it,"
                " there is a hole; dbsec backup take"
            )
            return begins
        finally:
            self.acknowledged = max(self.acknowledged, stream.acknowledged)
        if after is None:
            return None
        timeline, at = after
        self._history(session, timeline)
        return self._segment(timeline, at)

    def _look(self, acknowledged: Lsn) -> None:
        self.acknowledged = max(self.acknowledged, acknowledged)
        self._watch.look()


class _Watch:
    """Looks at the slot over SQL now and then, and says when it keeps WAL no longer."""

    def __init__(self, server: Conninfo, name: str, progress: Progress, clock: Clock) -> None:
        self._server = server
        self._name = name
        self._progress = progress
        self._clock = clock
        self._session: psycopg.Connection[Any] | None = None
        self._due = clock.monotonic()
        self._said = ""

    def look(self) -> None:
        """Look where it is due; a login that may not speak SQL is told once, and ends nothing."""
        if self._clock.monotonic() < self._due:
            return
        self._due = self._clock.monotonic() + _LOOK_S
        try:
            self._session = self._session or connect(self._server)
            found = slot.held(self._session, self._name)
        except (ConnectError, psycopg.Error) as exc:
            self.close()
            self._say(f"the slot is not watched: {exc}")
            return
        status = found.status if found else "lost"
        fine = status in ("reserved", "extended")
        self._say("" if fine else f"the slot '{self._name}' is {status}: the server may remove WAL at any checkpoint")

    def close(self) -> None:
        if self._session is not None:
            with suppress(psycopg.Error):
                self._session.close()
            self._session = None

    def _say(self, text: str) -> None:
        if text and text != self._said:
            self._progress.step(text)
        self._said = text
