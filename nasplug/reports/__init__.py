"""Reports: what searches and studies came to, as a page that needs nothing else or as a table for a
paper. They read directories, so that neither space nor method need be installed any more."""
