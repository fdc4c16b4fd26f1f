"""`python -m tracked_queue`."""

from .cli import main

main()
