"""`python -m alpacafarm_nb` is the command `alpacafarm`."""

from alpacafarm_nb.cli import main

if __name__ == "__main__": main()
