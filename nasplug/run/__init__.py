"""One search on disk: its directory, journal and replay, its reports, and the Python door."""
