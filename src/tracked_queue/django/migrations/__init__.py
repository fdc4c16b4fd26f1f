"""Of the permissions on jobs."""
