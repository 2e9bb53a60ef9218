"""When a contract may run: its backfills are verified, and nobody of the old release was there for a quiet window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase

from dbsec.migrations.runner.obstacle import Block, Obstacle
from dbsec.migrations.runner.releases import PRIMARY, Look, Observed, Seen, Sighting
from dbsec.migrations.settings import Settings

_WATCH = "dbsec migrate watch, as a service, looks often enough"


@dataclass(frozen=True, slots=True)
class Gate:
    """Judges what was seen; ``release`` is the new one, whose clients may be there."""

    settings: Settings
    release: str
    number: int | None = None

    def obstacles(self, seen: Seen) -> list[Obstacle]:
        """List why the old release may still be there, or why nobody can tell; none is the only pass."""
        if not (self.settings.service and self.release):
            return [self._unnamed()]
        found = [*self._present(seen), *self._doubtful(seen), *self._unobserved(seen)]
        return [*found, *self._standbys(seen), *self._misnamed(seen)]

    def old(self, name: str) -> bool:
        """Tell whether an application name is of the service, in another release."""
        service, at, release = name.partition("@")
        return service == self.settings.service and bool(at) and release != self.release

    def _present(self, seen: Seen) -> Iterator[Obstacle]:
        """Old clients that were seen in the window, and prepared transactions of whoever."""
        assert seen.now is not None
        start = seen.now - self._window
        connected = {
            (server, name): count for server, look in seen.looks.items() for name, count in look.sessions.items()
        }
        for one in seen.sightings:
            if self.old(one.name) and one.last_seen > start and (one.server, one.name) not in connected:
                yield self._blocked(Block.OLD_RELEASE, *self._was_there(one))
        for (server, name), count in sorted(connected.items()):
            if self.old(name):
                there = "" if server == PRIMARY else f" at '{server}'"
                message = f"'{name}' has {_sessions(count)} now{there}; an idle one of a pool counts too"
                yield self._blocked(
                    Block.OLD_RELEASE, message, "deploy the new release everywhere, and end the old one"
                )
        for prepared in seen.looks[PRIMARY].prepared:
            message = (
                f"transaction '{prepared.gid}' of '{prepared.owner}' is prepared since {prepared.at:%Y-%m-%d %H:%M}"
            )
            hint = f"COMMIT PREPARED or ROLLBACK PREPARED '{prepared.gid}'"
            yield self._blocked(Block.PREPARED, f"{message}, and nobody can tell by which release", hint)

    def _was_there(self, one: Sighting) -> tuple[str, str]:
        until = one.last_seen + self._window
        there = "" if one.server == PRIMARY else f" at '{one.server}'"
        ago = f"less than {_span(self._window)} ago"
        message = f"'{one.name}' was last seen{there} {one.last_seen:%Y-%m-%d %H:%M:%S%z}, {ago}"
        return message, f"wait until {until:%Y-%m-%d %H:%M:%S%z}; meanwhile {_WATCH}"

    def _doubtful(self, seen: Seen) -> Iterator[Obstacle]:
        """Clients that may be the old release for all that their names say."""
        assert seen.now is not None
        start = seen.now - self._window
        recent = {one.name for one in seen.sightings if one.last_seen > start}
        for name in sorted(recent.union(*(look.sessions for look in seen.looks.values()))):
            if self._is_in_doubt(name):
                who = f"'{name}'" if name else "a client without application_name"
                yield self._unknown(
                    Block.UNNAMED_CLIENT,
                    f"{who} was seen, and may be of the old release",
                    f"application_name={self.settings.service}@RELEASE in its DSN, or [migrations] other_clients",
                )
        for server, look in seen.looks.items():
            if look.hidden:
                yield self._blind(server, look)

    def _is_in_doubt(self, name: str) -> bool:
        if name.partition("@")[0] == self.settings.service and "@" in name:
            return False
        return not any(fnmatchcase(name, pattern) for pattern in self.settings.other_clients)

    def _unobserved(self, seen: Seen) -> Iterator[Obstacle]:
        for server, observed in seen.observed.items():
            if not seen.looks[server].hidden and not observed.covers(self._window):
                yield self._unknown(Block.NOT_OBSERVED, *self._not_long_enough(observed))

    def _not_long_enough(self, observed: Observed) -> tuple[str, str]:
        there = "" if observed.server == PRIMARY else f" at '{observed.server}'"
        gap = timedelta(seconds=self.settings.sample_gap_s)
        if observed.since is None:
            return f"nobody has looked{there} whether the old release is there", _WATCH
        return (
            f"not observed for long enough{there}: since {observed.since:%Y-%m-%d %H:%M:%S%z} (no two looks more than "
            f"{_span(gap)} apart), and {_span(self._window)} are asked for",
            _WATCH,
        )

    def _standbys(self, seen: Seen) -> Iterator[Obstacle]:
        """Clients that read from a standby are seen there alone."""
        missing = seen.looks[PRIMARY].standbys - len(self.settings.observed)
        if missing > 0 and self.settings.standbys_have_clients:
            yield self._unknown(
                Block.NOT_OBSERVED,
                f"{missing} more standby{'s stream' if missing > 1 else ' streams'} from this server, and nobody has "
                "looked at the clients there",
                "[migrations] observed = ['env:STANDBY_DSN'], or standbys_have_clients = false",
            )

    def _misnamed(self, seen: Seen) -> Iterator[Obstacle]:
        """A name with a slip of the pen would find no old client either: the new ones must have been seen under it."""
        name = f"{self.settings.service}@{self.release}"
        if name not in {one.name for one in seen.sightings}.union(*(look.sessions for look in seen.looks.values())):
            yield self._unknown(
                Block.NOT_OBSERVED,
                f"no client '{name}' was ever seen: either the new release does not run, or that is not its name",
                "SELECT DISTINCT application_name FROM pg_stat_activity",
            )

    def _blind(self, server: str, look: Look) -> Obstacle:
        return self._unknown(
            Block.NOT_OBSERVED,
            f"'{look.role}' sees too little of {_sessions(look.hidden)} ({server}) to tell whether they are clients",
            f"as a superuser: GRANT pg_read_all_stats TO {look.role}",
        )

    def _unnamed(self) -> Obstacle:
        lacks = "service" if not self.settings.service else "release"
        return self._unknown(
            Block.NOT_OBSERVED,
            f"which clients are of the old release is not said: [migrations] {lacks} is empty",
            "[migrations] service = 'NAME' in dbsec.toml, and --release with the name of the new one",
        )

    def _blocked(self, block: Block, message: str, hint: str) -> Obstacle:
        return Obstacle(block, message, hint, self.number, forcible=True)

    def _unknown(self, block: Block, message: str, hint: str) -> Obstacle:
        return Obstacle(block, message, hint, self.number, unknown=True, forcible=True)

    @property
    def _window(self) -> timedelta:
        return timedelta(seconds=self.settings.quiet_s)


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"


def _span(time: timedelta) -> str:
    seconds = time.total_seconds()
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"
