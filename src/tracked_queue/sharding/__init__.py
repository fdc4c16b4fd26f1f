"""Several shards of one namespace: where a job belongs, and how many shards there are."""
