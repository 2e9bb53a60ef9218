"""How anything resumes: steps that are recorded as begun and done, in a file or in PostgreSQL."""

from dbsec.journal.file import FORMAT, MAGIC, FileStore, open_file
from dbsec.journal.postgres import JobState, PostgresStore, forget, jobs
from dbsec.journal.steps import Edge, Journal, Step, Store, Transactional
from dbsec.journal.steps import Observer as Observer
from dbsec.journal.steps import Record as Record

__all__ = [
    "FORMAT",
    "MAGIC",
    "Edge",
    "FileStore",
    "JobState",
    "Journal",
    "PostgresStore",
    "Step",
    "Store",
    "Transactional",
    "forget",
    "jobs",
    "open_file",
]
