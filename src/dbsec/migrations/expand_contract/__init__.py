"""Writes the three files of a change that the running release survives: expand, backfill, contract."""
