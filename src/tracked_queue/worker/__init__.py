"""The worker: one instance under one lease in each process, and the supervisor above the processes."""
