"""The hours of a day in which a backfill may write, by the clock on the wall of a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_TEXT = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s+(\S+)\Z")
_MINUTE = timedelta(minutes=1)
_AHEAD = 3 * 24 * 60  # where the hour that summer time skips is the whole window, the next day has it


@dataclass(frozen=True, slots=True)
class Hours:
    """From ``start`` up to ``end``, which is on the next day where it is the earlier one."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read ``22:00-06:00 Europe/Oslo``. Errors: ``ValueError``."""
        match = _TEXT.match(text.strip())
        if match is None:
            raise ValueError(f"'{text}' is no window: write '22:00-06:00 Europe/Oslo'")
        start, end = (_clock(match[first], match[first + 1]) for first in (1, 3))
        if start == end:
            raise ValueError(f"'{text}' begins when it ends")
        try:
            return cls(start, end, ZoneInfo(match[5]))
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError(f"no time zone '{match[5]}' here (pip install tzdata brings them all)") from exc

    def holds(self, moment: datetime) -> bool:
        """Tell whether an aware moment is inside. An hour that comes twice in autumn is inside twice."""
        local = moment.astimezone(self.zone).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def opens(self, moment: datetime) -> datetime | None:
        """Return the first whole minute after ``moment`` that is inside, in the window's zone."""
        # In UTC: there no minute is skipped and none comes twice.
        minute = moment.replace(second=0, microsecond=0)
        return next(
            (at.astimezone(self.zone) for n in range(1, _AHEAD) if self.holds(at := minute + n * _MINUTE)), None
        )

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone.key}"


def _clock(hour: str, minute: str) -> time:
    whole = int(hour) % 24 if (hour, minute) == ("24", "00") else int(hour)
    return time(whole, int(minute))
