"""The harness, public so that other projects can stand on it: clusters, faults, a proxy, a canary scanner."""
