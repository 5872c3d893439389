"""The kernel: spaces, subspaces, trials, methods, and the loop of five hooks. Numpy and pluggy."""
