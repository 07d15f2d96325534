#!/usr/bin/env python3
"""Segment a cohort of 3-D scans from one labeled volume."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["train"].main, COMMANDS["train"].hints

if __name__ == "__main__":
    COMMANDS["train"].run()
