"""The life of keys and columns: what a value is, which keys there are, rotate, rewrap, reencrypt, shred, migrate."""
