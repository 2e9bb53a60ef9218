"""Parts of ``dbsec backfill`` that have a file of their own."""
