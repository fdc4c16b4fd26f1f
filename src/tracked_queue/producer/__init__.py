"""A call becomes a stored job, and its end a value."""
