"""A trained encoder as folders that other libraries read, with the proof that they read it."""
