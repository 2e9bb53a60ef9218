"""PostgreSQL as the oracle: runs statements on a server of its own, and tells what each of them did."""
