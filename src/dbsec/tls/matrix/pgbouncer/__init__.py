"""The cases of PgBouncer: a file here that has ``CASES`` adds to them."""
