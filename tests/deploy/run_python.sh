#!/usr/bin/env bash
# Runs a Python test with the system's interpreter: run_python.sh SCRIPT
exec python3 -B "$(dirname "$0")/$1"
