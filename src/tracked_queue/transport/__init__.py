"""How calls reach Redis: connections, calls and replies, servers that move. It knows nothing of tasks."""
