"""A reader of each thing that people look at: jobs, queues, instances, dead jobs, schedules."""
