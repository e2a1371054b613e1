"""`python -m dslbench`: the command line."""

from dslbench.cli.main import main

if __name__ == "__main__":
    main()
