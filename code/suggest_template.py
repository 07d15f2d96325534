#!/usr/bin/env python3
"""Suggest a scan to label: the most representative scan of a cohort or, after a run, the next one to label."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["suggest"].main, COMMANDS["suggest"].hints

if __name__ == "__main__":
    COMMANDS["suggest"].run()
