"""The configuration as a whole: read, validated, compared, and what it points to."""
