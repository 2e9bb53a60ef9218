"""Clients of AWS, shared by what keeps keys and secrets there."""

from dbsec.aws.client import Aws, shared
from dbsec.aws.errors import AwsError, AwsRefused, AwsUnavailable
from dbsec.aws.settings import Settings

__all__ = ["Aws", "AwsError", "AwsRefused", "AwsUnavailable", "Settings", "shared"]
