"""dbsec's own tables in schema ``dbsec`` of a target database: install, upgrade, uninstall, by numbered SQL files."""

from dbsec.pg.own.change import install, uninstall, upgrade
from dbsec.pg.own.planning import Act, Plan, Verb, plan
from dbsec.pg.own.state import OWNER, SCHEMA, Installed, installed, require, steps, users
from dbsec.pg.own.steps import VERSION

__all__ = [
    "OWNER",
    "SCHEMA",
    "VERSION",
    "Act",
    "Installed",
    "Plan",
    "Verb",
    "install",
    "installed",
    "plan",
    "require",
    "steps",
    "uninstall",
    "upgrade",
    "users",
]
