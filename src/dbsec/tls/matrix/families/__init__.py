"""The cases: a file here that has ``CASES`` adds to the matrix."""
