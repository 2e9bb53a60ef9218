"""What the database holds, as far as it is known: from a dump, from a catalog, and from the statements before."""
