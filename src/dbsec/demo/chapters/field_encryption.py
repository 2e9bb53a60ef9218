"""Field encryption: what is read, moved, altered or stolen in the database without the keys is of no use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dbsec.demo import encrypted, plaintext
from dbsec.demo.chapter import Chapter, Seen
from dbsec.demo.email_change import EmailChange
from dbsec.demo.release_traffic import ReleaseTraffic
from dbsec.demo.stage import Stage
from dbsec.evidence import Drill

_GONE = replace(plaintext.GONE, id="ENC-PLAINTEXT")
