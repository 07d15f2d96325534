#!/usr/bin/env python3
"""Pack a trained network into one file to hand on, and write it as ONNX beside it."""

from semisam_o1.command_line import COMMANDS

main, HINTS = COMMANDS["export"].main, COMMANDS["export"].hints

if __name__ == "__main__":
    COMMANDS["export"].run()
