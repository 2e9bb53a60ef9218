"""One rule a file: its name, with ``-`` for ``_``, completes "allow …"; it holds one ``RULE``."""
