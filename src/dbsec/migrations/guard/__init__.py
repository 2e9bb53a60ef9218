"""The guard in the database: event triggers made from one policy, installed, proven on the live server, removed."""
