"""Real servers on loopback, composed from wheels: PostgreSQL, OpenBao, S3, the reference service and its load."""
