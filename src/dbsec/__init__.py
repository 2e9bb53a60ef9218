"""dbsec hardens the data layer of a running service, attacks it before and after, and keeps the evidence."""

__version__ = "0.1.0"
