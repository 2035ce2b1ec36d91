"""`python -m snnjax` is the `snnjax` command."""

from snnjax.cli import main

main()
