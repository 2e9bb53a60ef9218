"""Base backups: taken by the replication protocol or by file ranges, described by ``backup.catalog``."""
