"""Safe schema change: what a migration does to a live PostgreSQL, told before it runs."""
