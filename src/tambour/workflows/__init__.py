"""learn, apply, imagine: each one page of titled paragraphs; their options; jobs, which keep unfinished work."""
