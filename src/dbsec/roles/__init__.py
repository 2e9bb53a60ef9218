"""Least privilege as code: the role model, its plan, its drills and the audit trail of who did what."""
