"""`python -m snnjax` is the `snnjax` command."""

from snnjax._cli import main

main()
