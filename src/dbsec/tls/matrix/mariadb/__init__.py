"""MariaDB in the matrix, through PyMySQL: a file here that has ``CASES`` adds to its cases."""
