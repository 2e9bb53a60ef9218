"""Restores: what can be reached, a plan of it, and a folder that starts only once it is whole."""

from __future__ import annotations

from dbsec.backup.restoring.plan import Plan, plan
from dbsec.backup.restoring.restore import Restored, restore
from dbsec.backup.restoring.target import Kind, Target, parse_target
from dbsec.backup.restoring.window import Window, window

__all__ = ["Kind", "Plan", "Restored", "Target", "Window", "parse_target", "plan", "restore", "window"]
