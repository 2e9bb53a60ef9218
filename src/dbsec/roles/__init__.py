"""Least privilege as code: the role model, its plan, its drills and the audit trail of who did what."""

from dbsec.roles.accounts import Retired, retire, set_password
from dbsec.roles.changes import Change, Plan
from dbsec.roles.desired import Model
from dbsec.roles.diff import apply, plan
from dbsec.roles.drill import RolesTarget, drills
from dbsec.roles.graph import exhibit, matrix
from dbsec.roles.script import render_sql

__all__ = [
    "Change",
    "Model",
    "Plan",
    "Retired",
    "RolesTarget",
    "apply",
    "drills",
    "exhibit",
    "matrix",
    "plan",
    "render_sql",
    "retire",
    "set_password",
]
