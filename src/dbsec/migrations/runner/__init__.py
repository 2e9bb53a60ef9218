"""Runs migrations one statement at a time, by its class, and never queues in front of the service."""
