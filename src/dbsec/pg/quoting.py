"""Whether the text of an error may hold a row's value because a function in the database has written it."""

from __future__ import annotations

import re

import psycopg

# RAISE, and what the other languages have in its place: the function chooses text, SQLSTATE and the names of objects.
_RAISES = frozenset({"exec_stmt_raise"})
_OTHER_LANGUAGES = ("plpy", "plperl", "pltcl", "plv8")
_OWN_CODE = re.compile(r"DB[A-Z]\d\d")  # dbsec's guards
_OWN_FUNCTION = re.compile(r"\bzz_dbsec_")  # the triggers of an expand: fixed texts, the server's own SQLSTATEs
_BUILT = re.compile(r"\bEXECUTE\b")  # a statement made of text: its names and its syntax may be values


def by_function(exc: psycopg.Error) -> bool:
    """Tell whether a function's author chose the words; dbsec's own functions put no value into theirs."""
    diag = exc.diag
    if _OWN_CODE.fullmatch(exc.sqlstate or ""):
        return False
    frame = (diag.context or "").partition("\n")[0]
    if diag.source_function in _RAISES:
        return _OWN_FUNCTION.search(frame) is None
    if (diag.source_file or "").startswith(_OTHER_LANGUAGES):
        return True
    return (exc.sqlstate or "").startswith("42") and _BUILT.search(diag.context or "") is not None
