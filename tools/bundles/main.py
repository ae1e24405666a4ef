"""The `bundle` command: its verbs, and where each lives. A new verb is one line in the table."""

import sys
from collections.abc import Sequence

import click

from appliance.cli.lazy import LazyGroup, run_command
from tools.bundles.passphrase import Passphrases

VERBS = {
    "keys": "tools.bundles.keys_commands:keys",
    "repo": "tools.bundles.repo_commands:repo",
    "enrolment": "tools.bundles.enrolment:enrolment",
    "build": "tools.bundles.build:build_command",
    "adopt": "tools.bundles.adopt:adopt",
    "sign": "tools.bundles.sign:sign",
    "channel": "tools.bundles.channel:channel",
    "publish": "tools.bundles.publish:publish",
    "copy": "tools.bundles.copy:copy",
    "verify": "tools.bundles.verify:verify",
}


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--passphrase-fd",
    type=click.IntRange(min=0),
    help="Read the passphrase of all keys from this open file descriptor",
)
@click.pass_context
def bundle(context: click.Context, passphrase_fd: int | None) -> None:
    """Make keys, repositories and signed releases, and publish them.

    Passphrases are asked for, or come from BUNDLE_PASSPHRASE_<KEY> or BUNDLE_PASSPHRASE in the
    environment; they are never taken from the command line.
    """
    context.obj = Passphrases(fd=passphrase_fd)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 wrong usage."""
    return run_command(bundle, "bundle", arguments)


if __name__ == "__main__":
    sys.exit(main())
