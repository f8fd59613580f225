"""What a run leaves in its folder, and what others may take from there."""
