"""What Alembic runs, guarded: a revision's transaction, its statements, and what is done of it."""
