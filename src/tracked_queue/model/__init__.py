"""The words a user writes: tasks, options, schedules, jobs, and how values travel. It knows no connection."""
