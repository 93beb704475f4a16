"""The history: the lines of the access log in an embedded database, for people to query."""
