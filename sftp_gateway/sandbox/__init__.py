"""What each process may still reach, enforced by Landlock."""
