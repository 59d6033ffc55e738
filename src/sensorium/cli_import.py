"""`sensorium import-env`: prints the reference router's environment as settings, what to store, and what deserves a look."""

from __future__ import annotations

import sys

import typer

from sensorium.cli_outcome import outcome


def import_env(ctx: typer.Context) -> None:
    """Print the settings that equal the MAC_ROUTER_* variables. No key is printed."""
    with outcome():
        # Start-up cost: the settings take longer to import than most commands take to run.
        from sensorium.reference_env import Import

        found = Import(ctx.obj)
        print(found.text or "# no MAC_ROUTER_* variable leads to a setting")
        if found.stores:
            print("# The keys, into the vault, with --settings naming this file:")
            print("\n".join(f"#   {line}" for line in dict.fromkeys(found.stores)))
        for warning in found.warnings:
            print(f"sensorium: {warning}", file=sys.stderr)
