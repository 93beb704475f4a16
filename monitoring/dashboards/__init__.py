"""The dashboards as code; `python -m monitoring.generate` writes their JSON."""
