"""What each page shows: a function that reads it for one person, and a template for it; `/api` sends the same as JSON."""
