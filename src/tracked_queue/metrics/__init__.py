"""Numbers of the whole fleet for Prometheus and for autoscalers: extra `metrics`."""
