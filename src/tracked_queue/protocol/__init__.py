"""What is said to Redis: the names of keys, the scripts, and one function for each of them. No I/O happens here."""
