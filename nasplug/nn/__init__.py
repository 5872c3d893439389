"""Networks, training and data for torch; everything here builds on the spaces."""
