"""The migration tools whose files are read, one file each: a module with a ``TOOL``."""
