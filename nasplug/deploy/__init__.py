"""What a search is for: its winner retrained, measured on the test data, and exported."""
