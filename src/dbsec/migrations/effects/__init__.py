"""What an operation does, foretold: its locks, and the work that it does under them."""

from dbsec.migrations.effects.foretell import foretell, together

__all__ = ["foretell", "together"]
