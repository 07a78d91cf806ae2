"""`python -m ddistill`."""

from ddistill.cli import main

main()
