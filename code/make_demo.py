#!/usr/bin/env python3
"""The whole pipeline on synthetic scans: write a cohort, train two short rounds, test, compare with round 0."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["demo"].main, COMMANDS["demo"].hints

if __name__ == "__main__":
    COMMANDS["demo"].run()
