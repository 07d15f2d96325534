#!/usr/bin/env python3
"""Add the mask of one more scan to a dataset, whose next training then starts from one more label."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["label"].main, COMMANDS["label"].hints

if __name__ == "__main__":
    COMMANDS["label"].run()
