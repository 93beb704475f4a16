"""The status page: what is served now and was served lately, for people without a Grafana."""
