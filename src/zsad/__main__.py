"""`python -m zsad` is the command line."""

from zsad.cli import main

if __name__ == "__main__":
    main()
