"""The bodies of generated triggers; ``{name}`` is filled in with SQL that is quoted already."""

from __future__ import annotations

from importlib.resources import files


def filled(name: str, **words: str) -> str:
    """Fill a template. The tag of its dollar quotes is one that no word holds."""
    tag = "dbsec"
    while any(f"${tag}$" in word for word in words.values()):
        tag += "_"
    return (files(__name__) / f"{name}.sql").read_text(encoding="utf-8").rstrip().format(tag=f"${tag}$", **words)
