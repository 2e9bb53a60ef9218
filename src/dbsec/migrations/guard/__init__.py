"""The guard in the database: event triggers made from one policy, installed, proven on the live server, removed."""

from dbsec.migrations.guard.install import install, planned_removal, uninstall
from dbsec.migrations.guard.override import end_override, override
from dbsec.migrations.guard.planning import Change, Plan, plan
from dbsec.migrations.guard.policy import GUARDS, Guard, Limit, Mode, Policy
from dbsec.migrations.guard.script import render, render_down
from dbsec.migrations.guard.selftest import Proof, selftest

__all__ = [
    "GUARDS",
    "Change",
    "Guard",
    "Limit",
    "Mode",
    "Plan",
    "Policy",
    "Proof",
    "end_override",
    "install",
    "override",
    "plan",
    "planned_removal",
    "render",
    "render_down",
    "selftest",
    "uninstall",
]
