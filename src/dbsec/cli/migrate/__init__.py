"""The parts of ``dbsec migrate`` that are more than one call of the library."""
