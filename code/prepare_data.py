#!/usr/bin/env python3
"""Turn medical images into a dataset: one HDF5 file per scan, and the lists train, val and test."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["prepare"].main, COMMANDS["prepare"].hints

if __name__ == "__main__":
    COMMANDS["prepare"].run()
