"""The commands of ``dbsec backup wal``: a file with ``add()`` is one."""
