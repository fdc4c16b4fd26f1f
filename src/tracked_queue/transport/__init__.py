"""How it gets there: connections, calls and replies, servers that move. It knows no task."""
