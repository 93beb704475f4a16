"""The history: what the access log says, kept in an embedded database for people to look at."""
