"""`python -m deepmodels` is the command `deepmodels`."""

from deepmodels.cli import main

if __name__ == "__main__":
    main()
