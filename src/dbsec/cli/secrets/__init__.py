"""The commands of ``dbsec secrets``."""
