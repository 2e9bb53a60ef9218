"""What an operation does, foretold: its locks, and the work that it does under them."""
