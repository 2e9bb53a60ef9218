"""Ways to encrypt a folder: one file each, with ``MEANS``."""
