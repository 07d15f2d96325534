#!/usr/bin/env python3
"""Segment scans with a trained model, or export the labels of the scans it was trained on, on their own grid."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["predict"].main, COMMANDS["predict"].hints

if __name__ == "__main__":
    COMMANDS["predict"].run()
