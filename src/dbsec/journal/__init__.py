"""How anything resumes: steps that are recorded as begun and done, in a file or in PostgreSQL."""

from dbsec.journal.file import FORMAT, MAGIC, FileStore, open_file
from dbsec.journal.postgres import JobState, PostgresStore, forget, jobs
from dbsec.journal.steps import Edge, Journal, Observer, Record, Step, Store, Transactional

__all__ = [
    "FORMAT",
    "MAGIC",
    "Edge",
    "FileStore",
    "JobState",
    "Journal",
    "Observer",
    "PostgresStore",
    "Record",
    "Step",
    "Store",
    "Transactional",
    "forget",
    "jobs",
    "open_file",
]
