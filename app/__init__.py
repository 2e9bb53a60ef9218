"""The reference service: a real HTTP service on PostgreSQL, which uses public names of dbsec only."""
