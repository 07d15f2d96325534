#!/usr/bin/env python3
"""Test a trained model on the volumes of a list."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["test"].main, COMMANDS["test"].hints

if __name__ == "__main__":
    COMMANDS["test"].run()
