"""The commands of ``dbsec at-rest``: one file each, with ``add(command)``."""
