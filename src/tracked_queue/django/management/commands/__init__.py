"""`manage.py tracked_queue`."""
