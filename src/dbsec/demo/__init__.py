"""The scripted sequence: attack, harden, attack again, under load; one file a chapter."""

from dbsec.demo.chapter import Audience, Chapter
from dbsec.demo.sequence import Options, run

__all__ = ["Audience", "Chapter", "Options", "run"]
