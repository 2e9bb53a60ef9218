"""Drills: restore a clone to a witness, compare every row, measure what was lost and how long it took."""
