"""``python -m nasplug``: the command line, where scripts are not on the path."""

from nasplug.cli import main

main()
