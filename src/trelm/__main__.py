"""`python -m trelm`."""

from trelm.cli import main

main()
