"""Encryption below the file system: what a cluster's disk really is, a lab that proves it, and keys of LUKS."""

from __future__ import annotations

from dbsec.backup.at_rest.checking import Checked, check
from dbsec.backup.at_rest.cluster import ClusterHere, from_folder, from_server
from dbsec.backup.at_rest.errors import AtRestError, CannotEncrypt, NotLuks, SlotInDanger, WrongPassphrase
from dbsec.backup.at_rest.luks import Cost, Key, Luks
from dbsec.backup.at_rest.rotating import Rotated, RotationPlan, plan_rotation, rotate
from dbsec.backup.at_rest.verdict import Seen, Verdict

__all__ = [
    "AtRestError",
    "CannotEncrypt",
    "Checked",
    "ClusterHere",
    "Cost",
    "Key",
    "Luks",
    "NotLuks",
    "Rotated",
    "RotationPlan",
    "Seen",
    "SlotInDanger",
    "Verdict",
    "WrongPassphrase",
    "check",
    "from_folder",
    "from_server",
    "plan_rotation",
    "rotate",
]
