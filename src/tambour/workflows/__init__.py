"""learn, apply, imagine."""
