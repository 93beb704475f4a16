"""What watches the gateway: Prometheus, Loki, Alloy and Grafana, see README.md here."""
