"""Encryption in transit: certificates, server configuration, and the drills that attack it."""

from dbsec.tls.ca import Authority, KeyPair
from dbsec.tls.data_folder import DataFolder
from dbsec.tls.drill import TransitTarget, drills
from dbsec.tls.posture import Posture, hba
from dbsec.tls.server_config import Applied, apply
from dbsec.tls.server_plan import Plan, plan
from dbsec.tls.sessions import Drained, drain_plaintext, md5_roles

__all__ = [
    "Applied",
    "Authority",
    "DataFolder",
    "Drained",
    "KeyPair",
    "Plan",
    "Posture",
    "TransitTarget",
    "apply",
    "drain_plaintext",
    "drills",
    "hba",
    "md5_roles",
    "plan",
]
