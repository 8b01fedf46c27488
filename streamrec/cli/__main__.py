"""`python -m streamrec.cli` is `streamrec`."""

from streamrec.cli import main

main()
