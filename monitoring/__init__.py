"""Monitoring with Prometheus, Loki, Alloy and Grafana; see README.md."""
