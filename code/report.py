#!/usr/bin/env python3
"""Write one self-contained page about a training run: curves, tables, and every case with its outlines."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["report"].main, COMMANDS["report"].hints

if __name__ == "__main__":
    COMMANDS["report"].run()
