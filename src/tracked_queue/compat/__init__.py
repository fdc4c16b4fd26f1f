"""The interfaces of other queues over this one, for code bases that move in steps."""
