"""What user code deals with: tasks, options, schedules, jobs, and how values travel. It has no connections."""
