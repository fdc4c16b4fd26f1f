"""The chaos harness: real processes on a real server, random faults, and a checker that judges what happened."""
