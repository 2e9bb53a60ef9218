"""Encryption in transit: certificates, server configuration, and the drills that attack it."""
