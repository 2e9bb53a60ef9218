"""One file a kind of change, each with ``plan(place, ask) -> Change``; a new file is a new kind."""
