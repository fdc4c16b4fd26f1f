"""`python -m tracked_queue`."""

# An absolute import and a main guard: the child process of an isolated job loads this file by its path.
if __name__ == "__main__":
    from tracked_queue.cli import main

    main()
