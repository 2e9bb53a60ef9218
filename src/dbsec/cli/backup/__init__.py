"""One file a command of ``dbsec backup``, found by its ``add()``."""
