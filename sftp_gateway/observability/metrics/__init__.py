"""Metrics: in shared memory while they are counted, in text for Prometheus."""
