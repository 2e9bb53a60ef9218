"""Batches over a live table: walked by key, resumable at the batch, throttled by what the server feels, verified."""
