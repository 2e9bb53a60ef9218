"""Every column has a class, a mode, a reason and an owner; a live database is compared with what the file says."""

from dbsec.crypto.classification.document import Class, Classification, Handling, ListedColumn, load
from dbsec.crypto.classification.judging import RULES, judge
from dbsec.crypto.classification.observed import Observed, ObservedColumn, read

__all__ = [
    "RULES",
    "Class",
    "Classification",
    "Handling",
    "ListedColumn",
    "Observed",
    "ObservedColumn",
    "judge",
    "load",
    "read",
]
