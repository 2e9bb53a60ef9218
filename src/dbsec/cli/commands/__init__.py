"""One file a command, found by name; its ``COMMAND`` is a typer app or function, its docstring the help."""
