"""Devices that measure: whom to trust, what they have, what they lack."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.options import Quiet
from edgekd.cli.saying import console_of, print_lines
from edgekd.core.errors import MACHINE

if TYPE_CHECKING:
    from edgekd.devices import Place

app = typer.Typer(add_completion=False)
device = typer.Typer(
    help="Prepare devices that are reached over ssh.\n\n"
    "In a recipe: `bench: {devices: [{use: ssh, host: pi5}]}`. First `trust`, then `setup`, then `check`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(device, name="device")

Host = Annotated[str, typer.Argument(metavar="HOST", help="[USER@]HOST[:PORT], or an alias of ssh's configuration.")]
Key = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The private key to log in with.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Use this ssh_config.")]
Python = Annotated[str, typer.Option("--python", help="The device's Python, 3.9 or newer.")]
Root = Annotated[str, typer.Option("--root", metavar="DIR", help="A folder on the device, edgekd's own.")]


@device.command()
def trust(
    host: Host,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="SHA256:...", help="Pin it only if it is this one.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of another one that is pinned.")] = False,
    config: Config = None,
) -> None:
    """Show a device's host key, and pin it.

    edgekd talks to no device whose key is neither pinned nor in ~/.ssh/known_hosts, and never asks later.
    """
    from edgekd import devices

    place = devices.Place(host=host, config=config)
    print_lines(devices.trust_device(place, fingerprint=fingerprint, replace=replace, confirm=_confirmed))


@device.command()
def setup(
    host: Host,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="onnxruntime or openvino; repeatable (default: those that are here).")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Install nothing; say what is missing.")] = False,
    wheels: Annotated[Path | None, typer.Option("--wheels", metavar="DIR", help="Install from these files alone.")] = None,
    loose: Annotated[bool, typer.Option("--loose", help="The newest its Python can have, not that used here.")] = False,
    system_site_packages: Annotated[
        bool, typer.Option("--system-site-packages", help="Let it see the system's packages (Jetson's TensorRT).")
    ] = False,
    key: Key = None,
    config: Config = None,
    python: Python = "python3",
    root: Root = "~/.edgekd",
    quiet: Quiet = False,
) -> None:
    """Give a device numpy and the runtimes.

    In a virtual environment of edgekd's own there, in the versions that are used here.
    """
    from edgekd import devices

    wanted = devices.Wanted(
        runtimes=runtime or (), wheels=wheels, offline=offline, loose=loose, system_site_packages=system_site_packages
    )
    place = _place(host, key=key, config=config, python=python, root=root)
    print_lines(devices.setup_device(place, wanted, console=console_of(quiet)))


@device.command()
def check(host: Host, key: Key = None, config: Config = None, python: Python = "python3", root: Root = "~/.edgekd") -> None:
    """Say what a device has and lacks.

    Exits with 4 if it cannot measure yet.
    """
    from edgekd import devices

    lines, ready = devices.check_device(_place(host, key=key, config=config, python=python, root=root))
    print_lines(lines)
    if not ready:
        raise typer.Exit(MACHINE)


@device.command("list")
def list_() -> None:
    """List this machine and the devices that are trusted."""
    from edgekd import devices

    print_lines(devices.list_devices())


def _place(host: str, *, key: Path | None, config: Path | None, python: str, root: str) -> "Place":
    from edgekd import devices

    return devices.Place(host=host, key=key, config=config, python=python, root=root)


def _confirmed(shown: str) -> bool:
    typer.echo(shown, err=True)
    return sys.stdin.isatty() and typer.confirm("Is this the key that the device itself shows?", err=True)
